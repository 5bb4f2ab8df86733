# qbound_embed(NAME FILE SYMBOL): the object library NAME holds the bytes of FILE as
#   const unsigned char SYMBOL[]; const size_t SYMBOL_size;
# The array is C source written by CMake alone, so that every toolchain can build it. The file is also the script that
# the build runs: cmake -DINPUT=.. -DOUTPUT=.. -DSYMBOL=.. -P Embed.cmake
if(CMAKE_SCRIPT_MODE_FILE)
  file(READ ${INPUT} bytes HEX)
  string(REGEX REPLACE "(................................)" "\\1\n" bytes "${bytes}")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
  file(WRITE ${OUTPUT} "/* Generated from ${SYMBOL}'s file. */\n#include <stddef.h>\n\n"
                       "extern const unsigned char ${SYMBOL}[];\nextern const size_t ${SYMBOL}_size;\n\n"
                       "const unsigned char ${SYMBOL}[] = {\n${bytes}};\n"
                       "const size_t ${SYMBOL}_size = sizeof ${SYMBOL};\n")
  return()
endif()

set(qbound_embed_script ${CMAKE_CURRENT_LIST_FILE})
function(qbound_embed name input symbol)
  set(output ${CMAKE_CURRENT_BINARY_DIR}/generated/${symbol}.c)
  file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/generated)
  add_custom_command(
    OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -DINPUT=${input} -DOUTPUT=${output} -DSYMBOL=${symbol} -P ${qbound_embed_script}
    DEPENDS ${input} ${qbound_embed_script})
  add_library(${name} STATIC ${output})
endfunction()
