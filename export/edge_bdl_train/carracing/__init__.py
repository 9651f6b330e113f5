"""The simulated camera car: environment, scripted expert, weather, episodes."""
