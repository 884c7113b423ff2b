"""The CA's database: SQLite embedded, or PostgreSQL."""
