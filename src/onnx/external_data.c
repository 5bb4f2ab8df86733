/* External data: tensors whose bytes lie in other files of the model's folder. The location comes from an untrusted
 * file, so nothing outside that folder is opened, not even through a symbolic link. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/size.h"
#include "onnx/document.h"

typedef struct region {
  const char *location; /* as written in the file */
  size_t offset, length;
  bool has_length;
} region;

/* What has been loaded, so that tensors that share a region share memory. */
typedef struct loaded {
  region where;
  void *data;
  struct loaded *next;
} loaded;

typedef struct loader {
  qb_onnx *document;
  char folder[PATH_MAX]; /* canonical */
  loaded *list;
  size_t loaded_bytes, file_bytes; /* of distinct regions; of the files seen, each counted once per location */
  qb_error *error;
} loader;

static const char *tensor_name(const Onnx__TensorProto *tensor) { return tensor->name == NULL ? "" : tensor->name; }

static qb_status bad_data(const loader *l, const Onnx__TensorProto *tensor, const char *problem) {
  return qb_fail(l->error, QB_ERROR_FORMAT, "%s: external data of tensor '%s': %s", l->document->path,
                 tensor_name(tensor), problem);
}

static bool parse_size(const char *text, size_t *value) {
  *value = 0;
  if (text[0] == '\0')
    return false;
  for (; *text >= '0' && *text <= '9'; text++)
    if (!qb_size_multiply(*value, 10, value) || !qb_size_add(*value, (size_t)(*text - '0'), value))
      return false;
  return *text == '\0';
}

static qb_status parse_region(const loader *l, const Onnx__TensorProto *tensor, region *r) {
  *r = (region){0};
  for (size_t i = 0; i < tensor->n_external_data; i++) {
    const char *key = tensor->external_data[i]->key, *value = tensor->external_data[i]->value;
    if (key == NULL || value == NULL)
      continue;
    if (strcmp(key, "location") == 0)
      r->location = value;
    else if (strcmp(key, "offset") == 0 && !parse_size(value, &r->offset))
      return bad_data(l, tensor, "the offset is not a number");
    else if (strcmp(key, "length") == 0 && !(r->has_length = parse_size(value, &r->length)))
      return bad_data(l, tensor, "the length is not a number");
  }
  return r->location == NULL || r->location[0] == '\0' ? bad_data(l, tensor, "no location is given") : QB_OK;
}

/* Opens the region's file; fails when it lies outside the model's folder. */
static qb_status open_region(const loader *l, const Onnx__TensorProto *tensor, const region *r, FILE **file) {
  char path[PATH_MAX], canonical[PATH_MAX];
  size_t length = strlen(l->folder);
  int written = snprintf(path, sizeof path, "%s/%s", l->folder, r->location);
  if (r->location[0] == '/' || written < 0 || (size_t)written >= sizeof path)
    return bad_data(l, tensor, "the location must be a path relative to the model's folder");
  if (realpath(path, canonical) == NULL)
    return qb_fail(l->error, QB_ERROR_IO,
                   "%s: tensor '%s' needs the file '%s' beside the model: %s; copy it into the same folder",
                   l->document->path, tensor_name(tensor), r->location, strerror(errno));
  if (strncmp(canonical, l->folder, length) != 0 || (canonical[length] != '/' && length > 1))
    return bad_data(l, tensor, "the location leaves the model's folder, which is refused");
  *file = fopen(canonical, "rb");
  if (*file == NULL)
    return qb_fail(l->error, QB_ERROR_IO, "%s: cannot be opened: %s", canonical, strerror(errno));
  return QB_OK;
}

/* Checks the region against the file and the tensor's shape, and reads it. */
static qb_status read_region(loader *l, const Onnx__TensorProto *tensor, const region *r, FILE *file, void **data) {
  struct stat info;
  if (fstat(fileno(file), &info) != 0 || !S_ISREG(info.st_mode))
    return bad_data(l, tensor, "the location is not a regular file");
  if (r->offset > (size_t)info.st_size || r->length > (size_t)info.st_size - r->offset)
    return qb_fail(l->error, QB_ERROR_FORMAT,
                   "%s: tensor '%s' needs bytes %zu to %zu of '%s', which has %lld: the file is truncated or belongs "
                   "to another model",
                   l->document->path, tensor_name(tensor), r->offset, r->offset + r->length, r->location,
                   (long long)info.st_size);
  l->file_bytes += (size_t)info.st_size;
  if (l->loaded_bytes + r->length > 2 * l->file_bytes + ((size_t)64 << 20))
    return bad_data(l, tensor, "overlapping regions need more memory than the files hold");
  l->loaded_bytes += r->length;
  l->document->weight_bytes += r->length;
  *data = qb_arena_alloc(&l->document->arena, r->length, 1);
  if (*data == NULL)
    return qb_fail_memory(l->error, tensor_name(tensor), r->length);
  if (fseek(file, (long)r->offset, SEEK_SET) != 0 || fread(*data, 1, r->length, file) != r->length)
    return qb_fail(l->error, QB_ERROR_IO, "%s: reading '%s' failed: %s", l->document->path, r->location,
                   strerror(errno));
  return QB_OK;
}

static bool same_region(const region *a, const region *b) {
  return a->offset == b->offset && a->length == b->length && strcmp(a->location, b->location) == 0;
}

static qb_status load_region(loader *l, const Onnx__TensorProto *tensor, const region *r, void **data) {
  for (const loaded *known = l->list; known != NULL; known = known->next)
    if (same_region(&known->where, r)) {
      *data = known->data;
      return QB_OK;
    }
  FILE *file = NULL;
  QB_TRY(open_region(l, tensor, r, &file));
  qb_status status = read_region(l, tensor, r, file, data);
  fclose(file);
  QB_TRY(status);
  loaded *entry = qb_arena_alloc(&l->document->arena, 1, sizeof *entry);
  if (entry == NULL)
    return qb_fail_memory(l->error, tensor_name(tensor), sizeof *entry);
  *entry = (loaded){.where = *r, .data = *data, .next = l->list};
  l->list = entry;
  return QB_OK;
}

static qb_status load_tensor(loader *l, Onnx__TensorProto *tensor) {
  region r;
  qb_shape shape;
  size_t count, size;
  void *data = NULL;
  if (tensor == NULL || tensor->data_location != QB_LOCATION_EXTERNAL)
    return QB_OK;
  QB_TRY(parse_region(l, tensor, &r));
  if (!qb_tensor_proto_shape(tensor, &shape, &count) || !qb_dtype_size((qb_dtype)tensor->data_type, count, &size))
    return bad_data(l, tensor, "its shape or type is impossible");
  if (r.has_length && r.length != size)
    return bad_data(l, tensor, "its length does not fit its shape and type");
  r.length = size;
  QB_TRY(load_region(l, tensor, &r, &data));
  tensor->has_raw_data = true;
  tensor->raw_data = (ProtobufCBinaryData){.len = size, .data = data};
  tensor->has_data_location = false;
  tensor->data_location = 0;
  tensor->n_external_data = 0;
  return QB_OK;
}

/* The canonical folder of the model; QB_ERROR_IO when there is none (a model from memory). */
static qb_status find_folder(loader *l) {
  char folder[PATH_MAX];
  const char *path = l->document->path, *slash = strrchr(path, '/');
  size_t length = slash == NULL ? 1 : (size_t)(slash - path) + (slash == path ? 1 : 0);
  if (length >= sizeof folder)
    return qb_fail(l->error, QB_ERROR_IO, "%s: the path is too long", path);
  memcpy(folder, slash == NULL ? "." : path, length);
  folder[length] = '\0';
  if (realpath(folder, l->folder) == NULL)
    return qb_fail(l->error, QB_ERROR_IO, "%s: its folder, where external data lies: %s", path, strerror(errno));
  return QB_OK;
}

qb_status qb_onnx_load_external(qb_onnx *document, qb_error *error) {
  Onnx__GraphProto *graph = document->model->graph;
  loader l = {.document = document, .error = error};
  bool any = false;
  for (size_t i = 0; i < graph->n_initializer; i++)
    any = any || graph->initializer[i]->data_location == QB_LOCATION_EXTERNAL;
  for (size_t i = 0; i < graph->n_node; i++)
    for (size_t k = 0; k < graph->node[i]->n_attribute; k++)
      any = any || (graph->node[i]->attribute[k]->t != NULL &&
                    graph->node[i]->attribute[k]->t->data_location == QB_LOCATION_EXTERNAL);
  if (!any)
    return QB_OK;
  QB_TRY(find_folder(&l));
  for (size_t i = 0; i < graph->n_initializer; i++)
    QB_TRY(load_tensor(&l, graph->initializer[i]));
  for (size_t i = 0; i < graph->n_node; i++)
    for (size_t k = 0; k < graph->node[i]->n_attribute; k++)
      QB_TRY(load_tensor(&l, graph->node[i]->attribute[k]->t));
  return QB_OK;
}
