"""What an engine is made of: the journal, the instances it hosts, the steps it runs, its place among workers."""
