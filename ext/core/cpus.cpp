#include "cpus.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#endif

namespace ghost {

#if defined(__linux__)

namespace {

bool is_in(const cpu_set_t& set, int cpu) {
  return cpu >= 0 && cpu < CPU_SETSIZE && CPU_ISSET(static_cast<size_t>(cpu), &set);
}

}  // namespace

int current_cpu() { return sched_getcpu(); }

int thread_id() { return static_cast<int>(syscall(SYS_gettid)); }

double running_time(pthread_t thread) {
  clockid_t clock;
  timespec time;
  if (pthread_getcpuclockid(thread, &clock) != 0 || clock_gettime(clock, &time) != 0) return -1;
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void bring_here(int thread_id) {
  cpu_set_t allowed, here;
  const int cpu = current_cpu();
  if (thread_id == 0 || sched_getaffinity(thread_id, sizeof allowed, &allowed) != 0 || !is_in(allowed, cpu)) return;
  CPU_ZERO(&here);
  CPU_SET(static_cast<size_t>(cpu), &here);
  if (sched_setaffinity(thread_id, sizeof here, &here) == 0) sched_setaffinity(thread_id, sizeof allowed, &allowed);
}

Elsewhere::Elsewhere(int thread_id, const int* cpus, int count) : thread_(thread_id) {
  if (thread_ == 0 || sched_getaffinity(thread_, sizeof allowed_, &allowed_) != 0) return;
  cpu_set_t others = allowed_;
  for (int i = 0; i < count; ++i) {
    if (is_in(others, cpus[i])) CPU_CLR(static_cast<size_t>(cpus[i]), &others);
  }
  moved_ = CPU_COUNT(&others) > 0 && sched_setaffinity(thread_, sizeof others, &others) == 0;
}

Elsewhere::~Elsewhere() {
  if (moved_) sched_setaffinity(thread_, sizeof allowed_, &allowed_);
}

#else

int current_cpu() { return -1; }
int thread_id() { return 0; }
double running_time(pthread_t) { return -1; }
void bring_here(int) {}
Elsewhere::Elsewhere(int, const int*, int) {}
Elsewhere::~Elsewhere() {}

#endif

}  // namespace ghost
