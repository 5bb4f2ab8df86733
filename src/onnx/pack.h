/* Messages into a stream. */
#ifndef QB_ONNX_PACK_H
#define QB_ONNX_PACK_H

#include <stdio.h>

#include "onnx.pb-c.h"
#include <qbound/qbound.h>

/* Serializes `model` into `file` piece by piece; tensor data goes straight from where it lies. QB_ERROR_IO names
 * `path`; QB_ERROR_UNSUPPORTED when the result would exceed the 2 GB that protobuf allows. */
QB_MUST_CHECK qb_status qb_onnx_pack(const Onnx__ModelProto *model, FILE *file, const char *path, int64_t *size_bytes,
                                     qb_error *error);

#endif
