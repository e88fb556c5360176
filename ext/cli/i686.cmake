# 32-bit x86 with Debian's cross compiler (apt install g++-i686-linux-gnu). The core adds -msse2 -mfpmath=sse.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR i686)
set(CMAKE_C_COMPILER i686-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER i686-linux-gnu-g++)
