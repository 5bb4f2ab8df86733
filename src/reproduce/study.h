/* The networks and images that the figures are about, and how to get one that is missing. */
#ifndef QB_REPRODUCE_STUDY_H
#define QB_REPRODUCE_STUDY_H

#include <qbound/qbound.h>

typedef enum qb_study_id {
  QB_STUDY_RESNET18,
  QB_STUDY_RESNET50,
  QB_STUDY_MOBILENETV2,
  QB_STUDY_SQUEEZENET,
  QB_STUDY_TINY_RESNET18,
  QB_STUDY_TINY_MOBILENETV2,
  QB_STUDY_RESNET20,
  QB_STUDY_RESNET56,
  QB_STUDY_RESNET8,
  QB_STUDY_LENET,
  QB_STUDY_MLP5,
  QB_STUDY_MLP7,
  QB_STUDY_MLP9,
  QB_STUDY_MLP11,
  QB_STUDY_COUNT
} qb_study_id;

typedef struct qb_study {
  const char *name;       /* "ResNet-18 (ImageNet)" */
  const char *brief;      /* under an axis: "ResNet-18" */
  const char *file;       /* below the data folder */
  const char *preprocess; /* of its images */
  const char *images;     /* to measure on, below the data folder */
  int64_t skip, samples;  /* of them: the first `skip` are for calibration where both are one folder */
  const char *calibration;
  int depth; /* affine layers of a perceptron, else 0 */
} qb_study;

const qb_study *qb_study_get(qb_study_id id);

/* Writes how to get the network or, with `images`, the images of a study; `path` is the missing file. */
void qb_study_how(const qb_study *study, bool images, const char *data, const char *path, char *text, size_t size);

#endif
