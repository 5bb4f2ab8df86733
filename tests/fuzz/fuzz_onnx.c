/* Fuzz target: bytes are read as an ONNX model, imported, listed and written. Built with a driver that replays the
 * committed corpus as an ordinary test, or, with -DQBOUND_FUZZ=ON and clang, with libFuzzer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "onnx/document.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void import_and_write(const qb_onnx *document) {
  qb_onnx_unsupported list[8];
  qb_error error = {0};
  qb_graph graph;
  qb_onnx_write_info info;
  int32_t count;
  FILE *nowhere = fopen("/dev/null", "wb");
  if (qb_onnx_list_unsupported(document, list, 8, &count, &error) != QB_OK && error.message[0] == '\0')
    abort();
  if (qb_onnx_to_graph(document, &graph, &error) == QB_OK) {
    /* what was accepted is valid and can be written, but for quantization that is spelled as arithmetic */
    if (nowhere != NULL && qb_onnx_write_graph(document, &graph, NULL, nowhere, "fuzz", &info, &error) != QB_OK &&
        strstr(error.message, "cannot be written") == NULL)
      abort();
    qb_graph_free(&graph);
  } else if (strstr(error.message, "fuzz.onnx") == NULL) {
    abort(); /* every message names the file */
  }
  if (nowhere != NULL)
    fclose(nowhere);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  qb_onnx *document;
  qb_error error = {0};
  unsigned char *bytes = qb_alloc(size, 1);
  if (bytes == NULL)
    return 0;
  memcpy(bytes, data, size);
  if (qb_onnx_from_bytes(bytes, size, "fuzz.onnx", &document, &error) == QB_OK)
    import_and_write(document);
  qb_onnx_free(document);
  return 0;
}
