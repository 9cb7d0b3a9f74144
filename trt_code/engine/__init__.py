"""Code that builds and runs of engines share: late imports, profiles, plugins, the plan's sidecar."""
