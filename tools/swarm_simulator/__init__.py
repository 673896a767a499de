"""A simulated swarm: the agents' own choice code, on simulated links and a simulated clock (`make simulate-fleet`)."""
