"""The CA's memory in SQL: SQLite embedded, or PostgreSQL."""
