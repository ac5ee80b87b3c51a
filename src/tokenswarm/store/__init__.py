"""What is recorded and how it is kept: the schema, the spool, Parquet."""
