"""The base of TensorRT plugins that are written in Python to parse and build networks, not to run them."""

from types import ModuleType


def build_only_plugin(trt: ModuleType) -> type:
    """Return the base class for ``trt``, which is ``tensorrt`` or ``tensorrt_rtx``.

    A subclass calls ``__init__`` with the plugin's name, version, namespace and number of outputs. It defines
    ``get_output_data_types``, ``get_output_shapes``, ``supports_format_combination`` and ``clone``.
    """
    parts = (
        trt.IPluginV3,
        trt.IPluginV3OneCore,
        trt.IPluginV3OneBuild,
        trt.IPluginV3OneRuntime,
    )

    class BuildOnlyPlugin(*parts):
        def __init__(self, name: str, version: str, namespace: str, num_outputs: int) -> None:
            for part in parts:
                part.__init__(self)
            self.plugin_name, self.plugin_version = name, version
            self.plugin_namespace, self.num_outputs = namespace, num_outputs

        def get_capability_interface(self, kind):
            return self

        def configure_plugin(self, inputs, outputs):
            pass

        def on_shape_change(self, inputs, outputs):
            pass

        def get_workspace_size(self, inputs, outputs):
            return 0

        def get_valid_tactics(self):
            return []

        def set_tactic(self, tactic):
            pass

        def enqueue(self, *arguments):
            raise NotImplementedError(f"{self.plugin_name} is for parsing and building only")

        def attach_to_context(self, context):
            return self.clone()

        def get_fields_to_serialize(self):
            return trt.PluginFieldCollection([])

    return BuildOnlyPlugin
