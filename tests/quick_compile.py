"""How tests have XLA compile for CPUs: with little optimisation, in a fifth of the time.

Tests wait for compilers far longer than for what these make.
"""

from importlib.metadata import version

FLAGS = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):  # later ones do not know it, and end where they meet it
    FLAGS += " --xla_cpu_use_fusion_emitters=false"

if __name__ == "__main__":
    print(FLAGS)
