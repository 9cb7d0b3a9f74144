"""What building and running an engine share: late imports, profiles, plugins, the plan's sidecar."""
