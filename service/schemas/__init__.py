"""The schema registry: subjects, their versions, and which changes between versions a subject allows."""
