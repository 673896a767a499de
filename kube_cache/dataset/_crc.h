/* The functions that `_crc.c` offers to the project's other native modules, in a capsule named CRC_CAPSULE.
 * Both take a finished CRC and return that of its data followed by `data`. */
#ifndef KUBE_CACHE_CRC_H
#define KUBE_CACHE_CRC_H
#include <stddef.h>
#include <stdint.h>

#define CRC_CAPSULE "kube_cache.dataset._crc.updates"

typedef struct {
    uint64_t (*crc64nvme)(uint64_t crc, const uint8_t *data, size_t length);
    uint64_t (*crc32c)(uint64_t crc, const uint8_t *data, size_t length);
} CrcUpdates;
#endif
