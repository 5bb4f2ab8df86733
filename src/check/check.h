/* The verifier of certificates as the library calls it. */
#ifndef QB_CHECK_CHECK_H
#define QB_CHECK_CHECK_H

#include <qbound/qbound.h>

/* Where centres are read whose numbers the certificate does not hold. Whatever `read` gives is believed only where its
 * SHA-256 is that of the certificate. */
typedef struct centre_source {
  void *context;
  /* Sample `index`, preprocessed as `preprocess` says, as `elements` numbers; errors are those of a file. */
  qb_status (*read)(void *context, const char *preprocess, int64_t index, int64_t elements, float *values,
                    qb_error *error);
} centre_source;

/* qb_check; `source` may be NULL, `threads` 0: all cores. */
QB_MUST_CHECK qb_status check_certificate(const char *certificate, const char *model, const char *quantized,
                                          const centre_source *source, int threads, qb_check_report *report,
                                          qb_error *error);

#endif
