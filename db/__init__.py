"""Tables, transactions and the lifecycle: the only owner of SQL."""
