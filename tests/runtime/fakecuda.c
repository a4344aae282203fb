// A libcuda.so.1 for machines without a GPU: device memory is host memory, and the kernels of tiny_kernels.py are
// computed here by their names when a graph is launched; other kernels do nothing. The real cuda.bindings run on it.
// Every call is logged to the file FAKE_CUDA_LOG. Handles carry a tag, so that a wrong handle is refused.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_HANDLE = 400 };
enum { CONTEXT = 0x1001, STREAM, LIBRARY, KERNEL, GRAPH, EXECUTABLE, EVENT };
enum { MOST_LAUNCHES = 256, MOST_PARAMETERS = 9, PROGRAMMATIC = 6 };

typedef struct { int id; char pad[4]; union { int allowed; char bytes[64]; } value; } Attribute;
typedef struct { unsigned grid[3], block[3], shared; void *stream; Attribute *attributes; unsigned count; } Config;
typedef struct { uint64_t address, second, columns, rows, pitch, rest[11]; } Map;
typedef struct { char name[64]; unsigned grid; Map map; uint64_t values[MOST_PARAMETERS]; } Launch;
typedef struct { int tag, capturing, count; char name[64]; Launch launches[MOST_LAUNCHES]; } Object;

static Object context = {.tag = CONTEXT};
static void *current[16];
static int depth;

static void note(const char *call, long a, long b) {
  const char *path = getenv("FAKE_CUDA_LOG");
  FILE *log = path ? fopen(path, "a") : NULL;
  if (log) fprintf(log, "%s %ld %ld\n", call, a, b), fclose(log);
}
#define LOG(a, b) note(__func__, (long)(a), (long)(b))
#define NEED(object, kind) \
  do { if (!(object) || ((Object *)(object))->tag != (kind)) return note("wrong handle", (kind), __LINE__), INVALID_HANDLE; } while (0)
#define CURRENT() do { if (!depth) return note("no context", 0, __LINE__), 201; } while (0)

static Object *make(int tag) {
  Object *object = calloc(1, sizeof *object);
  object->tag = tag;
  return object;
}

Result cuInit(unsigned flags) { LOG(flags, 0); return SUCCESS; }
Result cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
Result cuDeviceGetCount(int *count) { *count = 1; return SUCCESS; }
Result cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal ? 101 : SUCCESS; }
Result cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "Fake H200"); return SUCCESS; }
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 97 ? 232448 : -1;
  return SUCCESS;
}
Result cuGetErrorName(int code, const char **name) { *name = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_FAKE"; return SUCCESS; }
Result cuGetErrorString(int code, const char **text) { *text = "from the fake driver"; return SUCCESS; }
Result cuDevicePrimaryCtxRetain(void **made, int device) { *made = &context; return SUCCESS; }
Result cuDevicePrimaryCtxRelease_v2(int device) { LOG(device, 0); return SUCCESS; }
Result cuCtxPushCurrent_v2(void *pushed) { NEED(pushed, CONTEXT); current[depth++] = pushed; return SUCCESS; }
Result cuCtxPopCurrent_v2(void **popped) { CURRENT(); *popped = current[--depth]; return SUCCESS; }

Result cuMemAlloc_v2(uint64_t *pointer, size_t bytes) {
  CURRENT();
  LOG(bytes, 0);
  const char *limit = getenv("FAKE_CUDA_MEMORY");
  if (!bytes || (limit && bytes > (size_t)atol(limit))) return bytes ? OUT_OF_MEMORY : INVALID_VALUE;
  *pointer = (uint64_t)aligned_alloc(512, (bytes + 511) / 512 * 512);
  memset((void *)*pointer, 0xFF, bytes);
  return SUCCESS;
}
Result cuMemFree_v2(uint64_t pointer) { CURRENT(); LOG(0, 0); free((void *)pointer); return SUCCESS; }
Result cuMemGetInfo_v2(size_t *available, size_t *total) { *available = 1000; *total = 2000; return SUCCESS; }
Result cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *stream) {
  NEED(stream, STREAM);
  memset((void *)to, value, bytes);
  return SUCCESS;
}
Result cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
  CURRENT();
  NEED(stream, STREAM);
  memcpy((void *)to, from, bytes);
  return SUCCESS;
}
Result cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
  CURRENT();
  NEED(stream, STREAM);
  memcpy(to, (void *)from, bytes);
  return SUCCESS;
}
Result cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
  NEED(stream, STREAM);
  memcpy((void *)to, (void *)from, bytes);
  return SUCCESS;
}

Result cuLibraryLoadData(void **library, const void *code, void *o, void **ov, unsigned n, void *l, void **lv, unsigned m) {
  if (memcmp(code, "\177ELF", 4) || n || m) return 200;
  *library = make(LIBRARY);
  return SUCCESS;
}
Result cuLibraryUnload(void *library) { NEED(library, LIBRARY); LOG(0, 0); free(library); return SUCCESS; }
Result cuLibraryGetKernel(void **kernel, void *library, const char *name) {
  NEED(library, LIBRARY);
  Object *object = make(KERNEL);
  snprintf(object->name, sizeof object->name, "%s", name);
  *kernel = object;
  return SUCCESS;
}
Result cuKernelGetFunction(void **function, void *kernel) { NEED(kernel, KERNEL); *function = kernel; return SUCCESS; }
Result cuFuncGetAttribute(int *value, int attribute, void *function) {
  NEED(function, KERNEL);
  LOG(attribute, 0);
  *value = 1024;
  return SUCCESS;
}
Result cuFuncSetAttribute(void *function, int attribute, int value) { NEED(function, KERNEL); LOG(attribute, value); return SUCCESS; }

// The map keeps what it was told. Bit 21 of its second word is set, as drivers up to CUDA 13.1 do for small arrays too.
Result cuTensorMapEncodeTiled(Map *map, int type, uint32_t rank, void *address, const uint64_t *shape, const uint64_t *strides,
                              const uint32_t *box, const uint32_t *steps, int interleave, int swizzle, int promotion, int fill) {
  LOG(type, swizzle);
  if ((uintptr_t)map % 64 || (uintptr_t)address % 16 || rank != 2 || strides[0] % 16 || box[0] > 256 || box[1] > 256) return INVALID_VALUE;
  if (steps[0] != 1 || steps[1] != 1 || interleave || promotion != 2 || fill || box[0] * (type == 7 ? 4 : 2) > 16u << swizzle) return INVALID_VALUE;
  *map = (Map){(uint64_t)address, 1 << 21, shape[0], shape[1], strides[0]};
  return SUCCESS;
}

static void compute(const Launch *launch) {
  const uint64_t *v = launch->values;
  if (!strcmp(launch->name, "relu_rows")) {
    const Map *x = &launch->map;
    if (x->second || x->columns * 4 != x->pitch || (int)v[1] != x->rows || (int)v[2] != x->columns) return note("wrong map", 0, __LINE__);
    for (uint64_t i = 0; i < 8 * launch->grid * x->columns; i++) {
      float value = i < x->rows * x->columns ? ((float *)x->address)[i] : 0;
      ((float *)v[5])[i] = value > 0 ? value : 0;
    }
    return;
  }
  if (!strcmp(launch->name, "add_weights")) {
    const float *x = (float *)v[0], *w = (float *)v[1];
    for (int i = 0; i < (int)v[3]; i++) ((float *)v[2])[i] = x[i] + w[i];
  } else if (!strcmp(launch->name, "relu")) {
    const float *x = (float *)v[0];
    for (int64_t i = 0; i < (int64_t)v[2]; i++) ((float *)v[1])[i] = x[i] > 0 ? x[i] : 0;
  }
}

Result cuLaunchKernelEx(const Config *config, void *function, void **parameters, void **extra) {
  static const struct { const char *name; int sizes[MOST_PARAMETERS]; } known[] = {
    {"add_weights", {8, 8, 8, 4, 8, 8}}, {"relu", {8, 8, 8, 8, 8}}, {"relu_rows", {128, 4, 4, 8, 8, 8, 4, 8, 8}}};
  CURRENT();
  NEED(function, KERNEL);
  NEED(config->stream, STREAM);
  Object *stream = config->stream;
  if (config->block[0] % 32 || config->block[1] != 1 || extra) return INVALID_VALUE;
  for (unsigned i = 0; i < config->count; i++) {
    if (config->attributes[i].id != PROGRAMMATIC || config->attributes[i].value.allowed != 1) return INVALID_VALUE;
    note("programmatic", i, 0);
  }
  Launch launch = {.grid = config->grid[0]};
  strcpy(launch.name, ((Object *)function)->name);
  for (int kernel = 0; kernel < 3; kernel++) {
    if (strcmp(launch.name, known[kernel].name)) continue;
    for (int i = 0; i < MOST_PARAMETERS && known[kernel].sizes[i]; i++) {
      int size = known[kernel].sizes[i];
      memcpy(size == 128 ? (void *)&launch.map : &launch.values[i], parameters[i], size);
    }
  }
  LOG(launch.grid, config->shared);
  if (stream->capturing) stream->launches[stream->count++] = launch;
  else compute(&launch);
  return SUCCESS;
}

Result cuStreamCreate(void **stream, unsigned flags) { CURRENT(); LOG(flags, 0); *stream = make(STREAM); return SUCCESS; }
Result cuStreamDestroy_v2(void *stream) { NEED(stream, STREAM); LOG(0, 0); free(stream); return SUCCESS; }
Result cuStreamSynchronize(void *stream) { NEED(stream, STREAM); return SUCCESS; }
Result cuStreamBeginCapture_v2(void *stream, int mode) { NEED(stream, STREAM); LOG(mode, 0); ((Object *)stream)->capturing = 1; return SUCCESS; }
Result cuStreamEndCapture(void *stream, void **graph) {
  NEED(stream, STREAM);
  Object *from = stream, *made = make(GRAPH);
  made->count = from->count;
  memcpy(made->launches, from->launches, sizeof made->launches);
  from->capturing = from->count = 0;
  *graph = made;
  return SUCCESS;
}
Result cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
  NEED(graph, GRAPH);
  Object *made = make(EXECUTABLE);
  memcpy(made, graph, sizeof *made);
  made->tag = EXECUTABLE;
  *executable = made;
  return SUCCESS;
}
Result cuGraphDestroy(void *graph) { NEED(graph, GRAPH); free(graph); return SUCCESS; }
Result cuGraphExecDestroy(void *executable) { NEED(executable, EXECUTABLE); LOG(0, 0); free(executable); return SUCCESS; }
Result cuGraphLaunch(void *executable, void *stream) {
  CURRENT();
  NEED(executable, EXECUTABLE);
  NEED(stream, STREAM);
  for (int i = 0; i < ((Object *)executable)->count; i++) compute(&((Object *)executable)->launches[i]);
  return SUCCESS;
}
Result cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags) { LOG(bytes, flags); *pointer = malloc(bytes); return SUCCESS; }
Result cuMemFreeHost(void *pointer) { LOG(0, 0); free(pointer); return SUCCESS; }
Result cuEventCreate(void **event, unsigned flags) { LOG(flags, 0); *event = make(EVENT); return SUCCESS; }
Result cuEventDestroy_v2(void *event) { NEED(event, EVENT); LOG(0, 0); free(event); return SUCCESS; }
Result cuEventRecord(void *event, void *stream) { NEED(event, EVENT); NEED(stream, STREAM); return SUCCESS; }
Result cuEventSynchronize(void *event) { NEED(event, EVENT); return SUCCESS; }
Result cuStreamWaitEvent(void *stream, void *event, unsigned flags) { NEED(stream, STREAM); NEED(event, EVENT); return SUCCESS; }
Result cuEventElapsedTime(float *milliseconds, void *start, void *end) { NEED(start, EVENT); NEED(end, EVENT); *milliseconds = 0.5f; return SUCCESS; }
Result cuEventElapsedTime_v2(float *milliseconds, void *start, void *end) { return cuEventElapsedTime(milliseconds, start, end); }

static struct { const char *name; void *function; } table[] = {
#define PLAIN(name) {#name, (void *)name}
#define SECOND(name) {#name, (void *)name##_v2}
  PLAIN(cuInit), PLAIN(cuDriverGetVersion), PLAIN(cuDeviceGetCount), PLAIN(cuDeviceGet), PLAIN(cuDeviceGetName),
  PLAIN(cuDeviceGetAttribute), PLAIN(cuGetErrorName), PLAIN(cuGetErrorString), PLAIN(cuDevicePrimaryCtxRetain),
  SECOND(cuDevicePrimaryCtxRelease), SECOND(cuCtxPushCurrent), SECOND(cuCtxPopCurrent), SECOND(cuMemAlloc),
  SECOND(cuMemFree), SECOND(cuMemGetInfo), PLAIN(cuMemsetD8Async), SECOND(cuMemcpyHtoDAsync),
  SECOND(cuMemcpyDtoHAsync), SECOND(cuMemcpyDtoDAsync), PLAIN(cuLibraryLoadData), PLAIN(cuLibraryUnload),
  PLAIN(cuLibraryGetKernel), PLAIN(cuKernelGetFunction), PLAIN(cuFuncGetAttribute), PLAIN(cuFuncSetAttribute),
  PLAIN(cuLaunchKernelEx), PLAIN(cuStreamCreate), SECOND(cuStreamDestroy), PLAIN(cuStreamSynchronize),
  SECOND(cuStreamBeginCapture), PLAIN(cuStreamEndCapture), {"cuGraphInstantiate", (void *)cuGraphInstantiateWithFlags},
  PLAIN(cuGraphInstantiateWithFlags), PLAIN(cuGraphDestroy), PLAIN(cuGraphExecDestroy), PLAIN(cuGraphLaunch),
  PLAIN(cuEventCreate), SECOND(cuEventDestroy), PLAIN(cuEventRecord), PLAIN(cuEventElapsedTime),
  PLAIN(cuTensorMapEncodeTiled), PLAIN(cuMemHostAlloc), PLAIN(cuMemFreeHost), PLAIN(cuEventSynchronize),
  PLAIN(cuStreamWaitEvent),
};

// Everything that is not in the table is missing, as in a driver that does not know it.
Result cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
  *function = NULL;
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    if (!strcmp(table[i].name, name) && !(getenv("FAKE_CUDA_OLD") && !strncmp(name, "cuLibrary", 9))) *function = table[i].function;
  if (!strncmp(name, "cuGetProcAddress", 16)) *function = (void *)cuGetProcAddress_v2;
  if (status) *status = *function ? 0 : 1;
  return *function ? SUCCESS : 500;
}
Result cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
