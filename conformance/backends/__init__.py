"""The adapters of Ghost's own backends, one module each with `backends()`."""
