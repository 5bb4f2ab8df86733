# Gates on every change, and the floating-point rules: no contraction surprises, no fast-math.
# Notes on the optimizer's own work are no errors: lengths and paths that gcc guesses, loops that clang leaves scalar.
add_library(qbound_warnings INTERFACE)
target_compile_options(qbound_warnings INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wvla
                                                 $<$<C_COMPILER_ID:GNU>:-Wno-format-truncation>
                                                 $<$<C_COMPILER_ID:Clang>:-Wno-pass-failed> -ffp-contract=off -fno-fast-math)
if(QBOUND_WERROR)
  target_compile_options(qbound_warnings INTERFACE -Werror $<$<C_COMPILER_ID:GNU>:-Wno-error=maybe-uninitialized>)
endif()
if(QBOUND_NATIVE)
  target_compile_options(qbound_warnings INTERFACE -march=native)
endif()
if(QBOUND_SANITIZE)
  target_compile_options(qbound_warnings INTERFACE -fsanitize=address,undefined,float-cast-overflow
                                                   -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
endif()
if(QBOUND_FUZZ)
  target_compile_options(qbound_warnings INTERFACE -fsanitize=fuzzer-no-link)
  add_link_options(-fsanitize=fuzzer-no-link)
endif()
