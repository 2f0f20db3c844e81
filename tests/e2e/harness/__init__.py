"""What the end-to-end tests share: processes, certificates, an origin, an agent, clients."""
