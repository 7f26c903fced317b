"""Statistics: what happened in each minute and hour, by queue and agent."""
