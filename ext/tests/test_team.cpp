// Tests of the team of threads (core/team.h), built with -fsanitize=thread by tests/test_native_threads.py.
//
//   test_team RUNS
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "../core/cpus.h"
#include "../core/team.h"
#include "../core/trial.h"

namespace {

using ghost::Attendance;
using ghost::Share;
using ghost::Team;

int passed = 0, failed = 0;

void check(bool condition, const char* text, const char* where, int line) {
  condition ? ++passed : ++failed;
  if (!condition) std::fprintf(stderr, "line %d: CHECK(%s) failed: %s\n", line, text, where);
}
#define CHECK(condition, where) check((condition), #condition, (where), __LINE__)

void shares_cover_everything() {
  for (int members = 1; members < 9; ++members) {
    for (int count = 0; count < 40; ++count) {
      int end = 0;
      for (int i = 0; i < members; ++i) {
        const Share mine = ghost::share(count, i, members);
        CHECK(mine.begin == end && mine.end >= mine.begin, "shares join");
        end = mine.end;
      }
      CHECK(end == count, "shares end with the items");
    }
  }
}

// One run: every member writes its plain cells and reads all others' after the barrier. A barrier that lets somebody
// through early is a wrong sum, and a race that the sanitizer reports.
struct Job {
  Team* team;
  int phases;
  unsigned seed;
  std::vector<long> cells;   // [phases][size], written by one member each
  std::vector<int> entered;  // [threads]
  std::atomic<int> wrong{0};
};

void member_of_job(void* argument, int index) {
  Job& job = *static_cast<Job*>(argument);
  const int size = job.team->size();
  ++job.entered[static_cast<size_t>(index)];
  std::minstd_rand random(job.seed + static_cast<unsigned>(index));
  for (int phase = 0; phase < job.phases; ++phase) {
    const size_t row = static_cast<size_t>(phase) * static_cast<size_t>(size);
    if (random() % 64 == 0) usleep(random() % 300);  // somebody is late: the others sleep
    job.cells[row + static_cast<size_t>(index)] = phase + index;
    job.team->barrier(index);
    long sum = 0;
    for (int i = 0; i < size; ++i) sum += job.cells[row + static_cast<size_t>(i)];
    if (sum != static_cast<long>(size) * phase + static_cast<long>(size) * (size - 1) / 2) ++job.wrong;
  }
}

void members_meet(int threads, Attendance attendance, int runs) {
  Team team;
  CHECK(team.start(threads, attendance), "start");
  CHECK(team.threads() == threads, "threads");
  std::minstd_rand random(static_cast<unsigned>(threads));
  int largest = 0;
  for (int run = 0; run < runs; ++run) {
    const int phases = static_cast<int>(random() % 12);
    Job job{&team, phases, static_cast<unsigned>(random()), {}, {}, {}};
    job.cells.assign(static_cast<size_t>(phases * threads), -1);
    job.entered.assign(static_cast<size_t>(threads), 0);
    if (random() % 8 == 0) usleep(random() % 400);  // workers fall asleep
    team.run(member_of_job, &job, static_cast<int>(random() % 3));
    const int size = team.size();
    if (size > largest) largest = size;
    CHECK(job.wrong == 0, "what was written before a barrier is seen after it");
    for (int i = 0; i < threads; ++i) CHECK(job.entered[static_cast<size_t>(i)] == (i < size ? 1 : 0), "once each");
    if (attendance == Attendance::kEverybody) CHECK(size == threads, "everybody takes part");
  }
  std::printf("%d threads, %s: runs with up to %d members\n", threads,
              attendance == Attendance::kEverybody ? "everybody" : "who is ready", largest);
}

// Different threads may call run, one after the other; a team may end without a run.
void callers_change() {
  for (int i = 0; i < 20; ++i) {
    Team team;
    CHECK(team.start(1 + i % 4, i % 2 == 0 ? Attendance::kEverybody : Attendance::kWhoIsReady), "start");
    if (i % 5 == 0) continue;
    for (int caller = 0; caller < 3; ++caller) {
      std::thread([&] {
        Job job{&team, 3, 1, std::vector<long>(12), std::vector<int>(4), {}};
        team.run(member_of_job, &job, 1);
        CHECK(job.wrong == 0 && job.entered[0] == 1, "the caller is the first member");
      }).join();
    }
  }
}

#if defined(__linux__)

int allowed_cpus(int thread) {
  cpu_set_t set;
  return sched_getaffinity(thread, sizeof set, &set) == 0 ? CPU_COUNT(&set) : -1;
}

// Moving a thread leaves it the CPUs that it had.
void moved_threads_keep_their_cpus() {
  std::atomic<int> id{0};
  std::atomic<bool> stop{false};
  std::thread other([&] {
    id = ghost::thread_id();
    while (!stop) usleep(100);
  });
  while (id == 0) usleep(100);
  const int before = allowed_cpus(id), here = ghost::current_cpu();
  for (int i = 0; i < 20; ++i) {
    {
      const ghost::Elsewhere elsewhere(id, &here, 1);
      CHECK(allowed_cpus(id) == (before > 1 ? before - 1 : before), "away from this CPU, where there is another");
    }
    CHECK(allowed_cpus(id) == before, "back to all");
    ghost::bring_here(id);
    CHECK(allowed_cpus(id) == before, "back to all");
  }
  CHECK(allowed_cpus(0) == before, "the caller stays as it was");
  stop = true;
  other.join();
}

#else
void moved_threads_keep_their_cpus() {}
#endif

// The quicker way is taken, and tried again when it changes.
void trials_find_the_quicker_way() {
  ghost::Trial trial;
  for (const double together : {0.5, 2.0, 1.5, 0.9}) {
    int joint = 0, runs = 0;
    for (int i = 0; i < 20000; ++i) {
      const bool with_workers = trial.together();
      trial.add(with_workers, with_workers ? together : 1.0);
      if (i < 10000) continue;
      ++runs;
      joint += with_workers ? 1 : 0;
    }
    const double share = static_cast<double>(joint) / runs;
    CHECK(together < 1 ? share > 0.97 : share < 0.03, "mostly the quicker way");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int runs = argc == 2 ? std::atoi(argv[1]) : 0;
  if (runs < 1) return std::fprintf(stderr, "usage: test_team RUNS\n"), 2;
  shares_cover_everything();
  for (const int threads : {1, 2, 3, 5, 8}) {
    members_meet(threads, Attendance::kEverybody, runs);
    members_meet(threads, Attendance::kWhoIsReady, runs);
  }
  callers_change();
  moved_threads_keep_their_cpus();
  trials_find_the_quicker_way();
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
