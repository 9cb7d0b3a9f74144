"""Runs networks on a CPU in this project's own C++: packed rows, no copied state, searches without Python.

A network is a :class:`trt_code.native.program.Program`, a list of operators that the modules here write from
the PyTorch network. The C++ library (``library.py`` compiles it for this machine) runs any such list.
"""
