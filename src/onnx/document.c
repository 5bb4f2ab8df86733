/* Reading an ONNX file into messages whose tensor data points into the file's bytes. */
#include "onnx/document.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/size.h"
#include "onnx/wire.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "ONNX tensors are little-endian and are used in place"
#endif

/* protobuf cannot hold messages of 2 GB and more. */
static const size_t LARGEST_MODEL = (size_t)2 << 30;

/* ------------------------------------------------------------------------------------------------- message memory */

enum { POOL_CHUNK = 32 * 1024, POOL_SMALL = 2048, POOL_STEP = 16 };

/* A small block from the current chunk; `size` is a multiple of POOL_STEP. */
static void *pool_take(qb_message_pool *pool, size_t size) {
  if (size > pool->chunk_left) {
    pool->chunk = qb_arena_alloc(pool->arena, POOL_CHUNK, 1);
    pool->chunk_left = pool->chunk == NULL ? 0 : POOL_CHUNK;
    if (pool->chunk == NULL)
      return NULL;
  }
  void *block = pool->chunk;
  pool->chunk += size;
  pool->chunk_left -= size;
  return block;
}

static void *pool_alloc(void *context, size_t size) {
  qb_message_pool *pool = context;
  size_t rounded;
  void *block = NULL;
  if (qb_size_add(size, POOL_STEP - 1, &rounded) && rounded <= pool->left) {
    rounded &= ~(size_t)(POOL_STEP - 1);
    pool->left -= rounded;
    block = rounded > POOL_SMALL ? qb_arena_alloc(pool->arena, rounded, 1) : pool_take(pool, rounded);
  }
  pool->exhausted = pool->exhausted || block == NULL;
  return block;
}

static void pool_free(void *context, void *block) {
  (void)context; /* the arena goes as a whole */
  (void)block;
}

ProtobufCAllocator qb_message_allocator(qb_message_pool *pool) {
  return (ProtobufCAllocator){.alloc = pool_alloc, .free = pool_free, .allocator_data = pool};
}

/* -------------------------------------------------------------------------------------------------- file to bytes */

typedef struct byte_buffer {
  unsigned char *data; /* from qb_alloc */
  size_t used, capacity;
} byte_buffer;

static qb_status buffer_reserve(byte_buffer *buffer, size_t capacity, const char *path, qb_error *error) {
  if (capacity <= buffer->capacity)
    return QB_OK;
  unsigned char *grown = qb_alloc(capacity, 1);
  if (grown == NULL)
    return qb_fail_memory(error, path, capacity);
  if (buffer->used > 0)
    memcpy(grown, buffer->data, buffer->used);
  qb_free(buffer->data);
  buffer->data = grown;
  buffer->capacity = capacity;
  return QB_OK;
}

static qb_status too_large(const char *path, qb_error *error) {
  return qb_fail(error, QB_ERROR_FORMAT,
                 "%s: larger than 2 GB, which an ONNX file cannot be; save its weights as "
                 "external data",
                 path);
}

static qb_status read_plain(FILE *file, size_t size, const char *path, byte_buffer *buffer, qb_error *error) {
  QB_TRY(buffer_reserve(buffer, size, path, error));
  buffer->used = fread(buffer->data, 1, size, file);
  if (buffer->used != size)
    return qb_fail(error, QB_ERROR_IO, "%s: cannot be read: %s", path,
                   ferror(file) ? strerror(errno) : "it became shorter while being read");
  return QB_OK;
}

/* The last four bytes of a gzip file tell its expanded size, a hint that spares copies while growing. deflate expands
 * at most 1032 times, so the hint of a hostile file is bounded by its own size. */
static size_t gzip_size_hint(FILE *file, size_t compressed) {
  unsigned char tail[4];
  if (compressed < 18 || fseek(file, -4L, SEEK_END) != 0 || fread(tail, 1, 4, file) != 4)
    return 0;
  size_t hint = tail[0] | (size_t)tail[1] << 8 | (size_t)tail[2] << 16 | (size_t)tail[3] << 24;
  size_t most = compressed > LARGEST_MODEL / 1032 ? LARGEST_MODEL : compressed * 1032;
  return hint < most ? hint : most;
}

static qb_status inflate_stream(gzFile stream, const char *path, byte_buffer *buffer, qb_error *error) {
  enum { STEP = 1 << 20 };
  for (;;) {
    if (buffer->used == buffer->capacity)
      QB_TRY(buffer_reserve(buffer, buffer->capacity * 2, path, error));
    size_t room = buffer->capacity - buffer->used;
    int got = gzread(stream, buffer->data + buffer->used, room < STEP ? (unsigned)room : STEP);
    if (got < 0) {
      int code;
      const char *why = gzerror(stream, &code);
      return qb_fail(error, QB_ERROR_FORMAT, "%s: damaged gzip file: %s", path, why);
    }
    buffer->used += (size_t)got;
    if (got == 0)
      break;
    if (buffer->used > LARGEST_MODEL)
      return too_large(path, error);
  }
  int code;
  (void)gzerror(stream, &code);
  if (code == Z_BUF_ERROR)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: the gzip file is truncated; download it again", path);
  return QB_OK;
}

static qb_status read_gzip(FILE *file, size_t size, const char *path, byte_buffer *buffer, qb_error *error) {
  QB_TRY(buffer_reserve(buffer, gzip_size_hint(file, size) + 4096, path, error));
  gzFile stream = gzopen(path, "rb");
  if (stream == NULL)
    return qb_fail(error, QB_ERROR_IO, "%s: cannot be opened: %s", path, strerror(errno));
  qb_status status = inflate_stream(stream, path, buffer, error);
  gzclose(stream);
  return status;
}

static qb_status read_stream(FILE *file, const char *path, byte_buffer *buffer, qb_error *error) {
  struct stat info;
  if (fstat(fileno(file), &info) != 0)
    return qb_fail(error, QB_ERROR_IO, "%s: %s", path, strerror(errno));
  if (!S_ISREG(info.st_mode))
    return qb_fail(error, QB_ERROR_IO, "%s: is %s, not a file; give the path of an .onnx file", path,
                   S_ISDIR(info.st_mode) ? "a directory" : "a device or pipe");
  if (info.st_size == 0)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: the file is empty", path);
  if ((size_t)info.st_size > LARGEST_MODEL)
    return too_large(path, error);
  unsigned char magic[2] = {0};
  size_t got = fread(magic, 1, sizeof magic, file);
  if (got == 2 && magic[0] == 0x1f && magic[1] == 0x8b)
    return read_gzip(file, (size_t)info.st_size, path, buffer, error);
  rewind(file);
  return read_plain(file, (size_t)info.st_size, path, buffer, error);
}

static qb_status read_bytes(const char *path, byte_buffer *buffer, qb_error *error) {
  FILE *file = fopen(path, "rb");
  if (file == NULL)
    return qb_fail(error, QB_ERROR_IO, "%s: cannot be opened: %s", path, strerror(errno));
  qb_status status = read_stream(file, path, buffer, error);
  fclose(file);
  return status;
}

/* ---------------------------------------------------------------------------------------------- bytes to document */

/* Bytes per element of a type number as it lies in raw_data, at least 1. */
static size_t element_size(int32_t data_type) {
  int bits = qb_dtype_bits((qb_dtype)data_type);
  return bits >= 8 ? (size_t)bits / 8 : 1;
}

/* Points the tensor at its data in the file's bytes, moved down over its own tag and length where that aligns it. */
static qb_status resolve_tensor(qb_onnx *document, Onnx__TensorProto *tensor, qb_error *error) {
  qb_wire_stub stub;
  if (tensor == NULL || !tensor->has_raw_data)
    return QB_OK;
  if (tensor->raw_data.len != sizeof stub)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: tensor '%s' is malformed", document->path,
                   tensor->name == NULL ? "" : tensor->name);
  memcpy(&stub, tensor->raw_data.data, sizeof stub);
  unsigned char *data = document->bytes + stub.offset;
  size_t alignment = stub.is_float_data ? sizeof(float) : element_size(tensor->data_type);
  size_t shift = (size_t)((uintptr_t)data % alignment);
  if (shift > 0 && shift <= stub.slack) {
    data = memmove(data - shift, data, stub.length);
  } else if (shift > 0) {
    unsigned char *copy = qb_arena_alloc(&document->arena, stub.length, 1);
    if (copy == NULL)
      return qb_fail_memory(error, document->path, stub.length);
    data = memcpy(copy, data, stub.length);
  }
  if (stub.is_float_data) {
    tensor->has_raw_data = false;
    tensor->raw_data = (ProtobufCBinaryData){0};
    tensor->float_data = (float *)(void *)data;
    tensor->n_float_data = stub.length / sizeof(float);
  } else {
    tensor->raw_data = (ProtobufCBinaryData){.len = stub.length, .data = data};
  }
  return QB_OK;
}

static qb_status resolve_tensors(qb_onnx *document, qb_error *error) {
  Onnx__GraphProto *graph = document->model->graph;
  for (size_t i = 0; i < graph->n_initializer; i++)
    QB_TRY(resolve_tensor(document, graph->initializer[i], error));
  for (size_t i = 0; i < graph->n_node; i++)
    for (size_t k = 0; k < graph->node[i]->n_attribute; k++)
      QB_TRY(resolve_tensor(document, graph->node[i]->attribute[k]->t, error));
  return QB_OK;
}

static qb_status unpack(qb_onnx *document, qb_error *error) {
  unsigned char *skeleton;
  size_t size;
  QB_TRY(qb_wire_skeleton(document->bytes, document->byte_count, document->path, &skeleton, &size, error));
  document->pool = (qb_message_pool){.arena = &document->arena, .left = ((size_t)64 << 20) + 32 * size};
  ProtobufCAllocator allocator = qb_message_allocator(&document->pool);
  document->model = onnx__model_proto__unpack(&allocator, size, skeleton);
  qb_free(skeleton);
  if (document->model == NULL && document->pool.exhausted)
    return qb_fail(error, QB_ERROR_MEMORY,
                   "%s: not enough memory for its graph, or more parts than a file of %zu bytes "
                   "should have",
                   document->path, document->byte_count);
  if (document->model == NULL)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: not an ONNX model, or damaged: its fields do not have ONNX's types",
                   document->path);
  if (document->model->graph == NULL || document->model->graph->n_node == 0)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: not an ONNX model: it holds no graph with nodes", document->path);
  return resolve_tensors(document, error);
}

static qb_status find_opset(qb_onnx *document, qb_error *error) {
  const Onnx__ModelProto *model = document->model;
  for (size_t i = 0; i < model->n_opset_import; i++) {
    const char *domain = model->opset_import[i]->domain;
    if (domain == NULL || domain[0] == '\0' || strcmp(domain, "ai.onnx") == 0)
      document->opset = model->opset_import[i]->version;
  }
  if (document->opset == 0)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: the file names no version of the ONNX operator set", document->path);
  if (document->opset < QB_OPSET_MIN || document->opset > QB_OPSET_MAX)
    return qb_fail(error, QB_ERROR_UNSUPPORTED,
                   "%s: operator set %lld; supported are %d to %d: convert it with onnx.version_converter",
                   document->path, (long long)document->opset, QB_OPSET_MIN, QB_OPSET_MAX);
  return QB_OK;
}

qb_status qb_onnx_from_bytes(unsigned char *bytes, size_t byte_count, const char *path, qb_onnx **result,
                             qb_error *error) {
  *result = NULL;
  qb_onnx *document = qb_alloc(1, sizeof *document);
  if (document == NULL) {
    qb_free(bytes);
    return qb_fail_memory(error, path, sizeof *document);
  }
  qb_arena_init(&document->arena);
  document->bytes = bytes;
  document->byte_count = document->weight_bytes = byte_count;
  document->path = qb_arena_string(&document->arena, path, strlen(path));
  qb_status status = document->path == NULL ? qb_fail_memory(error, path, strlen(path)) : unpack(document, error);
  if (status == QB_OK)
    status = find_opset(document, error);
  if (status == QB_OK)
    status = qb_onnx_load_external(document, error);
  if (status != QB_OK) {
    qb_onnx_free(document);
    return status;
  }
  *result = document;
  return QB_OK;
}

qb_status qb_onnx_read(const char *path, qb_onnx **document, qb_error *error) {
  byte_buffer buffer = {0};
  *document = NULL;
  qb_status status = read_bytes(path, &buffer, error);
  if (status != QB_OK) {
    qb_free(buffer.data);
    return status;
  }
  return qb_onnx_from_bytes(buffer.data, buffer.used, path, document, error);
}

void qb_onnx_free(qb_onnx *document) {
  if (document == NULL)
    return;
  qb_arena_free(&document->arena);
  qb_free(document->bytes);
  qb_free(document);
}

int64_t qb_onnx_opset(const qb_onnx *document) { return document->opset; }

const char *qb_onnx_metadata(const qb_onnx *document, const char *key) {
  for (size_t i = 0; i < document->model->n_metadata_props; i++) {
    const Onnx__StringStringEntryProto *entry = document->model->metadata_props[i];
    if (entry->key != NULL && entry->value != NULL && strcmp(entry->key, key) == 0)
      return entry->value;
  }
  return NULL;
}
