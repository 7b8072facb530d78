"""A run against a team's own sandbox: what the product does there, and which beliefs about Salesforce hold."""
