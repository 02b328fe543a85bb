"""A data set built shard by shard: the plan, who does the work, and what comes of it."""
