"""The REST dialect of Confluent's schema registry, under /schema-registry, over `service/schemas/`."""
