/* SHA-256; see hash.h. */
#include "base/hash.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

qb_status qb_hash_bytes(const void *data, size_t size, qb_hash *hash, qb_error *error) {
  if (EVP_Digest(data, size, hash->bytes, NULL, EVP_sha256(), NULL) != 1)
    return qb_fail(error, QB_ERROR_ENGINE, "SHA-256 is not available in the installed libcrypto");
  return QB_OK;
}

qb_status qb_hash_file(const char *path, qb_hash *hash, qb_error *error) {
  FILE *file = fopen(path, "rb");
  if (file == NULL)
    return qb_fail(error, QB_ERROR_IO, "%s: %s", path, strerror(errno));
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  bool valid = context != NULL && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1;
  unsigned char buffer[65536];
  size_t count;
  while (valid && (count = fread(buffer, 1, sizeof buffer, file)) > 0)
    valid = EVP_DigestUpdate(context, buffer, count) == 1;
  valid = valid && EVP_DigestFinal_ex(context, hash->bytes, NULL) == 1;
  bool read_failed = ferror(file) != 0;
  EVP_MD_CTX_free(context);
  fclose(file);
  if (read_failed)
    return qb_fail(error, QB_ERROR_IO, "%s: reading failed", path);
  if (!valid)
    return qb_fail(error, QB_ERROR_ENGINE, "SHA-256 is not available in the installed libcrypto");
  return QB_OK;
}

const char *qb_hash_print(const qb_hash *hash, char text[QB_HASH_TEXT]) {
  for (int i = 0; i < QB_HASH_BYTES; i++)
    snprintf(text + 2 * i, 3, "%02x", hash->bytes[i]);
  return text;
}
