"""Build the Cython kernels of eventcore/_native. Everything else is in pyproject.toml.

EVENTCORE_PURE=1      build none: the package then runs on its pure-Python twins (EVENTCORE_KERNELS=pure)
EVENTCORE_SANITIZE=1  build with AddressSanitizer and UndefinedBehaviorSanitizer, for the tests
"""

import os
import sys
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DIRECTIVES = {
    "language_level": 3,
    "binding": True,
    "embedsignature": True,
    "autotestdict": False,
    "auto_pickle": False,
    "boundscheck": False,  # bounds are checked by one cursor type
    "wraparound": False,
    "cdivision": True,
}
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


class build_kernels(build_ext):
    """Turn a compiler's complaint into a sentence; never fall back to pure silently."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extension(self, extension):
        try:
            super().build_extension(extension)
        except Exception as error:
            raise SystemExit(
                f"\neventcore: compiling {extension.name} failed: {error}\n"
                "Install a C compiler and the Python headers (Debian: gcc python3-dev), or set EVENTCORE_PURE=1\n"
                "to install without compiled kernels and EVENTCORE_KERNELS=pure to run that way, many times slower.\n"
            ) from error


def flags():
    if os.environ.get("EVENTCORE_SANITIZE") == "1":
        return ["-O1", "-g", "-fno-omit-frame-pointer", *SANITIZERS], SANITIZERS
    return ["-O3", "-fvisibility=hidden"], ["-Wl,-x" if sys.platform == "darwin" else "-Wl,-s"]


def extensions():
    if os.environ.get("EVENTCORE_PURE") == "1":
        return []
    from Cython.Build import cythonize

    compile_args, link_args = flags()
    sources = sorted(glob("src/eventcore/_native/*.pyx"))
    headers = sorted(glob("src/eventcore/_native/*.h"))
    modules = [
        Extension(
            "eventcore._native." + os.path.splitext(os.path.basename(source))[0],
            [source],
            depends=headers,
            include_dirs=["src/eventcore/_native"],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
        for source in sources
    ]
    return cythonize(modules, compiler_directives=DIRECTIVES, include_path=["src"])


setup(ext_modules=extensions(), cmdclass={"build_ext": build_kernels})
