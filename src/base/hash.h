/* SHA-256 of bytes and files, through libcrypto. */
#ifndef QB_BASE_HASH_H
#define QB_BASE_HASH_H

#include <qbound/qbound.h>

enum { QB_HASH_BYTES = 32, QB_HASH_TEXT = 65 };

typedef struct qb_hash {
  uint8_t bytes[QB_HASH_BYTES];
} qb_hash;

QB_MUST_CHECK qb_status qb_hash_bytes(const void *data, size_t size, qb_hash *hash, qb_error *error);
QB_MUST_CHECK qb_status qb_hash_file(const char *path, qb_hash *hash, qb_error *error);

/* 64 lower-case hexadecimal digits; returns `text`. */
const char *qb_hash_print(const qb_hash *hash, char text[QB_HASH_TEXT]);

#endif
