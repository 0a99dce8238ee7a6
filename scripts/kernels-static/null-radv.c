// A Vulkan driver for a GPU that is not there: Mesa's RADV with RADV_FORCE_FAMILY, but for what its null winsys cannot do.
// That winsys has no command streams (vkBeginCommandBuffer would call address 0), no memory types and no fences, so here
// recording, submitting and waiting do nothing, and memory is pages of this process. Everything else is RADV's own, above all
// vkCreateComputePipelines: the machine code is what a GPU of the family would run. Results are never computed.
//
// In the environment, read anew at each pipeline:
//   NULL_RADV_OUT   the folder to write to
//   NULL_RADV_NAME  what to call the pipeline that is made next; without it nothing is written
//   NULL_RADV_WAVE  32 or 64: overrides the subgroup size that is asked for
// and at the start NULL_RADV_DRIVER, RADV's library, if it is not on the loader's path. A pipeline leaves
//   NAME.json  family, subgroup size, workgroup size, RADV's statistics      NAME.asm  the machine code, disassembled
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <vulkan/vulkan.h>
#include <vulkan/vk_icd.h>

static PFN_vkVoidFunction (*driver_instance)(VkInstance, const char *);
static PFN_vkVoidFunction (*driver_physical)(VkInstance, const char *);
static VkResult (*driver_negotiate)(uint32_t *);
static VkInstance instance;
static PFN_vkGetDeviceProcAddr driver_device;

__attribute__((constructor)) static void load_driver(void) {
  const char *name = getenv("NULL_RADV_DRIVER");
  void *driver = dlopen(name ? name : "libvulkan_radeon.so", RTLD_NOW | RTLD_LOCAL);
  if (!driver) {
    fprintf(stderr, "null-radv: %s\n", dlerror());
    return;
  }
  driver_instance = dlsym(driver, "vk_icdGetInstanceProcAddr");
  driver_physical = dlsym(driver, "vk_icdGetPhysicalDeviceProcAddr");
  driver_negotiate = dlsym(driver, "vk_icdNegotiateLoaderICDInterfaceVersion");
}

// --- what does nothing ------------------------------------------------------------------------------------

static VkResult succeed(void) { return VK_SUCCESS; }
static void ignore(void) {}

/** Fences, semaphores and query pools: nothing stands behind the handle. */
static VkResult create_handle(VkDevice device, const void *info, const VkAllocationCallbacks *allocator, uint64_t *out) {
  static uint64_t last = 4096;
  *out = __atomic_add_fetch(&last, 1, __ATOMIC_SEQ_CST);
  return VK_SUCCESS;
}

static VkResult semaphore_value(VkDevice device, VkSemaphore semaphore, uint64_t *value) {
  *value = UINT64_MAX / 2;
  return VK_SUCCESS;
}

static VkResult query_results(VkDevice device, VkQueryPool pool, uint32_t first, uint32_t count, size_t size, void *data,
                              VkDeviceSize stride, VkQueryResultFlags flags) {
  memset(data, 0, size);
  return VK_SUCCESS;
}

// --- memory: pages that cost nothing until they are touched ------------------------------------------------

typedef struct {
  size_t size;
  void *at;
} Memory;

static VkResult allocate_memory(VkDevice device, const VkMemoryAllocateInfo *info, const VkAllocationCallbacks *allocator,
                                VkDeviceMemory *out) {
  Memory *memory = malloc(sizeof *memory);
  if (!memory) return VK_ERROR_OUT_OF_HOST_MEMORY;
  memory->size = info->allocationSize;
  memory->at =
      mmap(NULL, memory->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory->at == MAP_FAILED) {
    free(memory);
    return VK_ERROR_OUT_OF_DEVICE_MEMORY;
  }
  *out = (VkDeviceMemory)memory;
  return VK_SUCCESS;
}

static void free_memory(VkDevice device, VkDeviceMemory handle, const VkAllocationCallbacks *allocator) {
  Memory *memory = (Memory *)handle;
  if (!memory) return;
  munmap(memory->at, memory->size);
  free(memory);
}

static VkResult map_memory(VkDevice device, VkDeviceMemory memory, VkDeviceSize offset, VkDeviceSize size,
                           VkMemoryMapFlags flags, void **out) {
  *out = (char *)((Memory *)memory)->at + offset;
  return VK_SUCCESS;
}

static void memory_properties(VkPhysicalDevice physical, VkPhysicalDeviceMemoryProperties *out) {
  const VkMemoryPropertyFlags host = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT |
                                     VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
  memset(out, 0, sizeof *out);
  out->memoryHeapCount = 1;
  out->memoryHeaps[0] = (VkMemoryHeap){16ull << 30, VK_MEMORY_HEAP_DEVICE_LOCAL_BIT};
  out->memoryTypeCount = 2;
  out->memoryTypes[0] = (VkMemoryType){VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, 0};
  out->memoryTypes[1] = (VkMemoryType){VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | host, 0};
}

static void memory_properties2(VkPhysicalDevice physical, VkPhysicalDeviceMemoryProperties2 *out) {
  memory_properties(physical, &out->memoryProperties);
}

static PFN_vkGetBufferMemoryRequirements driver_requirements;
static PFN_vkGetBufferMemoryRequirements2 driver_requirements2;

static void requirements(VkDevice device, VkBuffer buffer, VkMemoryRequirements *out) {
  driver_requirements(device, buffer, out);
  out->memoryTypeBits = 3;
}

static void requirements2(VkDevice device, const VkBufferMemoryRequirementsInfo2 *info, VkMemoryRequirements2 *out) {
  driver_requirements2(device, info, out);
  out->memoryRequirements.memoryTypeBits = 3;
}

// --- modules: their workgroup size is kept -----------------------------------------------------------------

typedef struct Module {
  VkShaderModule handle;
  uint32_t workgroup[3];
  struct Module *next;
} Module;

static Module *modules;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static PFN_vkCreateShaderModule driver_create_module;

/** LocalSize of the (only) entry point; zeros if it is not given in numbers. */
static void read_workgroup(const uint32_t *code, size_t words, uint32_t workgroup[3]) {
  enum { HEADER = 5, OP_EXECUTION_MODE = 16, LOCAL_SIZE = 17 };
  memset(workgroup, 0, 3 * sizeof *workgroup);
  for (size_t i = HEADER; i < words && code[i] >> 16; i += code[i] >> 16)
    if ((code[i] & 0xffff) == OP_EXECUTION_MODE && code[i + 2] == LOCAL_SIZE)
      memcpy(workgroup, code + i + 3, 3 * sizeof *workgroup);
}

static VkResult create_module(VkDevice device, const VkShaderModuleCreateInfo *info, const VkAllocationCallbacks *allocator,
                              VkShaderModule *out) {
  VkResult result = driver_create_module(device, info, allocator, out);
  if (result != VK_SUCCESS) return result;
  Module *module = calloc(1, sizeof *module);
  if (!module) return result;
  module->handle = *out;
  read_workgroup(info->pCode, info->codeSize / 4, module->workgroup);
  pthread_mutex_lock(&lock);
  module->next = modules; // the newest comes first: handles are used again
  modules = module;
  pthread_mutex_unlock(&lock);
  return result;
}

// --- pipelines: what RADV made of them is written down -----------------------------------------------------

static PFN_vkCreateComputePipelines driver_create_pipelines;
static PFN_vkGetPipelineExecutablePropertiesKHR driver_executables;
static PFN_vkGetPipelineExecutableStatisticsKHR driver_statistics;
static PFN_vkGetPipelineExecutableInternalRepresentationsKHR driver_texts;

static FILE *open_file(const char *folder, const char *name, const char *ending) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s.%s", folder, name, ending);
  FILE *file = fopen(path, "wb");
  if (!file) fprintf(stderr, "null-radv: %s can't be written\n", path);
  return file;
}

static void write_assembly(VkDevice device, const VkPipelineExecutableInfoKHR *which, const char *folder, const char *name) {
  VkPipelineExecutableInternalRepresentationKHR texts[16];
  uint32_t count = 16;
  for (uint32_t i = 0; i < count; i++)
    texts[i] = (VkPipelineExecutableInternalRepresentationKHR){
        VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INTERNAL_REPRESENTATION_KHR};
  driver_texts(device, which, &count, texts); // their sizes
  for (uint32_t i = 0; i < count; i++) texts[i].pData = calloc(1, texts[i].dataSize + 1);
  driver_texts(device, which, &count, texts);
  for (uint32_t i = 0; i < count; i++) {
    if (texts[i].pData && strstr(texts[i].name, "Assembly")) {
      FILE *file = open_file(folder, name, "asm");
      if (file) {
        fwrite(texts[i].pData, 1, strnlen(texts[i].pData, texts[i].dataSize), file);
        fclose(file);
      }
    }
    free(texts[i].pData);
  }
}

static void describe(VkDevice device, const char *folder, const char *name, const VkComputePipelineCreateInfo *info,
                     VkPipeline pipeline) {
  uint32_t workgroup[3] = {0};
  for (const VkBaseInStructure *s = info->stage.pNext; s; s = s->pNext)
    if (s->sType == VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO) {
      const VkShaderModuleCreateInfo *own = (const void *)s;
      read_workgroup(own->pCode, own->codeSize / 4, workgroup);
    }
  for (Module *module = modules; module && !workgroup[0]; module = module->next)
    if (module->handle == info->stage.module) memcpy(workgroup, module->workgroup, sizeof workgroup);

  VkPipelineInfoKHR of = {VK_STRUCTURE_TYPE_PIPELINE_INFO_KHR, NULL, pipeline};
  VkPipelineExecutablePropertiesKHR executable = {VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_PROPERTIES_KHR};
  uint32_t count = 1;
  driver_executables(device, &of, &count, &executable);
  if (!count) return;
  VkPipelineExecutableInfoKHR which = {VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR, NULL, pipeline, 0};
  VkPipelineExecutableStatisticKHR statistics[64];
  count = 64;
  for (uint32_t i = 0; i < count; i++)
    statistics[i] = (VkPipelineExecutableStatisticKHR){VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR};
  driver_statistics(device, &which, &count, statistics);

  FILE *file = open_file(folder, name, "json");
  if (!file) return;
  const char *family = getenv("RADV_FORCE_FAMILY");
  fprintf(file, "{\"family\": \"%s\", \"wave\": %u, \"workgroup\": [%u, %u, %u], \"statistics\": {", family ? family : "",
          executable.subgroupSize, workgroup[0], workgroup[1], workgroup[2]);
  for (uint32_t i = 0; i < count; i++) { // RADV's names are plain words, its numbers unsigned
    fprintf(file, "%s\"%s\": ", i ? ", " : "", statistics[i].name);
    if (statistics[i].format == VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_FLOAT64_KHR)
      fprintf(file, "%g", statistics[i].value.f64);
    else
      fprintf(file, "%llu", (unsigned long long)statistics[i].value.u64);
  }
  fprintf(file, "}}\n");
  fclose(file);
  write_assembly(device, &which, folder, name);
}

static VkResult create_pipelines(VkDevice device, VkPipelineCache cache, uint32_t count,
                                 const VkComputePipelineCreateInfo *infos, const VkAllocationCallbacks *allocator,
                                 VkPipeline *out) {
  const char *folder = getenv("NULL_RADV_OUT"), *name = getenv("NULL_RADV_NAME"), *wave = getenv("NULL_RADV_WAVE");
  if (!folder || !name || !*name) return driver_create_pipelines(device, cache, count, infos, allocator, out);
  VkComputePipelineCreateInfo *copies = malloc(count * sizeof *copies);
  if (!copies) return VK_ERROR_OUT_OF_HOST_MEMORY;
  memcpy(copies, infos, count * sizeof *copies);
  for (uint32_t i = 0; i < count; i++) {
    copies[i].flags |= VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR |
                       VK_PIPELINE_CREATE_CAPTURE_INTERNAL_REPRESENTATIONS_BIT_KHR;
    if (!wave) continue;
    for (VkBaseOutStructure *s = (void *)copies[i].stage.pNext; s; s = s->pNext)
      if (s->sType == VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO)
        ((VkPipelineShaderStageRequiredSubgroupSizeCreateInfo *)s)->requiredSubgroupSize = atoi(wave);
  }
  // Without the cache: a pipeline that comes from it has nothing to tell.
  VkResult result = driver_create_pipelines(device, VK_NULL_HANDLE, count, copies, allocator, out);
  pthread_mutex_lock(&lock);
  for (uint32_t i = 0; i < count; i++)
    if (out[i]) describe(device, folder, name, &infos[i], out[i]);
  pthread_mutex_unlock(&lock);
  free(copies);
  return result;
}

// --- the device and the instance ---------------------------------------------------------------------------

static PFN_vkCreateDevice driver_create_device;
static VkResult create_device(VkPhysicalDevice physical, const VkDeviceCreateInfo *info,
                              const VkAllocationCallbacks *allocator, VkDevice *out) {
  VkDeviceCreateInfo copy = *info;
  const uint32_t count = info->enabledExtensionCount;
  const char **names = malloc((count + 1) * sizeof *names);
  if (!names) return VK_ERROR_OUT_OF_HOST_MEMORY;
  for (uint32_t i = 0; i < count; i++) names[i] = info->ppEnabledExtensionNames[i];
  names[count] = VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME;
  copy.enabledExtensionCount = count + 1;
  copy.ppEnabledExtensionNames = names;
  VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR feature = {
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR, (void *)info->pNext, VK_TRUE};
  copy.pNext = &feature;
  VkResult result = driver_create_device(physical, &copy, allocator, out);
  free(names);
  if (result != VK_SUCCESS) return result;
  driver_device = (PFN_vkGetDeviceProcAddr)driver_instance(instance, "vkGetDeviceProcAddr");
#define FROM_DEVICE(type, name) (type) driver_device(*out, name)
  driver_create_module = FROM_DEVICE(PFN_vkCreateShaderModule, "vkCreateShaderModule");
  driver_create_pipelines = FROM_DEVICE(PFN_vkCreateComputePipelines, "vkCreateComputePipelines");
  driver_executables =
      FROM_DEVICE(PFN_vkGetPipelineExecutablePropertiesKHR, "vkGetPipelineExecutablePropertiesKHR");
  driver_statistics =
      FROM_DEVICE(PFN_vkGetPipelineExecutableStatisticsKHR, "vkGetPipelineExecutableStatisticsKHR");
  driver_texts = FROM_DEVICE(PFN_vkGetPipelineExecutableInternalRepresentationsKHR,
                             "vkGetPipelineExecutableInternalRepresentationsKHR");
  return result;
}

static PFN_vkCreateInstance driver_create_instance;
static VkResult create_instance(const VkInstanceCreateInfo *info, const VkAllocationCallbacks *allocator, VkInstance *out) {
  VkResult result = driver_create_instance(info, allocator, out);
  if (result == VK_SUCCESS) instance = *out;
  return result;
}

// --- which function it is ----------------------------------------------------------------------------------

typedef PFN_vkVoidFunction Function;
static Function device_function(VkDevice device, const char *name);

static int is(const char *name, const char *other) { return strcmp(name, other) == 0; }
/** The function itself, or its name with the ending of a version or an extension. */
static int begins(const char *name, const char *start) { return strncmp(name, start, strlen(start)) == 0; }

/** Ours in the place of the driver's, which it may call. */
static Function replace(const char *name, Function driver) {
  static const char *const succeeding[] = {
      "vkBeginCommandBuffer", "vkEndCommandBuffer", "vkResetCommandBuffer", "vkResetCommandPool", "vkQueueSubmit",
      "vkQueueWaitIdle", "vkDeviceWaitIdle", "vkGetFenceStatus", "vkWaitForFences", "vkResetFences", "vkBindBufferMemory",
      "vkFlushMappedMemoryRanges", "vkInvalidateMappedMemoryRanges", "vkWaitSemaphores", "vkSignalSemaphore"};
  static const char *const ignored[] = {
      "vkCmd", "vkDestroyCommandPool", "vkFreeCommandBuffers", "vkUpdateDescriptorSet", "vkDestroyFence",
      "vkDestroySemaphore", "vkDestroyQueryPool"};
  static const char *const handles[] = {"vkCreateFence", "vkCreateSemaphore", "vkCreateQueryPool"};
#define COUNT(list) (sizeof list / sizeof *list)
  if (!driver) return NULL;
  for (size_t i = 0; i < COUNT(ignored); i++)
    if (begins(name, ignored[i])) return (Function)ignore;
  for (size_t i = 0; i < COUNT(succeeding); i++)
    if (begins(name, succeeding[i])) return (Function)succeed;
  for (size_t i = 0; i < COUNT(handles); i++)
    if (is(name, handles[i])) return (Function)create_handle;
  if (begins(name, "vkGetSemaphoreCounterValue")) return (Function)semaphore_value;
  if (is(name, "vkGetQueryPoolResults")) return (Function)query_results;
  if (is(name, "vkAllocateMemory")) return (Function)allocate_memory;
  if (is(name, "vkFreeMemory")) return (Function)free_memory;
  if (is(name, "vkMapMemory")) return (Function)map_memory;
  if (is(name, "vkUnmapMemory")) return (Function)ignore;
  if (is(name, "vkGetPhysicalDeviceMemoryProperties")) return (Function)memory_properties;
  if (begins(name, "vkGetPhysicalDeviceMemoryProperties2")) return (Function)memory_properties2;
#define KEEP(type, kept, ours) return kept = (type)driver, (Function)ours
  if (is(name, "vkGetBufferMemoryRequirements"))
    KEEP(PFN_vkGetBufferMemoryRequirements, driver_requirements, requirements);
  if (begins(name, "vkGetBufferMemoryRequirements2"))
    KEEP(PFN_vkGetBufferMemoryRequirements2, driver_requirements2, requirements2);
  if (is(name, "vkCreateDevice")) KEEP(PFN_vkCreateDevice, driver_create_device, create_device);
  if (is(name, "vkCreateInstance")) KEEP(PFN_vkCreateInstance, driver_create_instance, create_instance);
  if (is(name, "vkCreateShaderModule")) return (Function)create_module;
  if (is(name, "vkCreateComputePipelines")) return (Function)create_pipelines;
  if (is(name, "vkGetDeviceProcAddr")) return (Function)device_function;
  return driver;
}

static Function device_function(VkDevice device, const char *name) {
  if (!driver_device) driver_device = (PFN_vkGetDeviceProcAddr)driver_instance(instance, "vkGetDeviceProcAddr");
  return replace(name, driver_device(device, name));
}

VKAPI_ATTR Function vk_icdGetInstanceProcAddr(VkInstance from, const char *name) {
  return driver_instance ? replace(name, driver_instance(from, name)) : NULL;
}

VKAPI_ATTR Function vk_icdGetPhysicalDeviceProcAddr(VkInstance from, const char *name) {
  return driver_physical ? driver_physical(from, name) : NULL;
}

VKAPI_ATTR VkResult vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t *version) {
  return driver_negotiate ? driver_negotiate(version) : VK_ERROR_INCOMPATIBLE_DRIVER;
}
