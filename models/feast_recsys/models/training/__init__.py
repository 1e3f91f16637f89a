"""What all trainings share: epochs, devices, several processes, the state on disk, the checkpoint that comes of it."""
