/* The load client of the benchmarks: many IMAP clients in one thread, plain or TLS 1.3.
 *
 *   load MODE --port N [--tls full|resumed] [--count N] [--concurrency K] [--bytes N]
 *        [--sessions M] [--limit SECONDS] [--awake 1] [--user U] [--password P]
 *
 *   logins   COUNT times connect, LOGIN, LOGOUT, wait for the close; K at a time
 *   ping     M sessions share COUNT NOOPs, each waiting for its answer
 *   fetch    M sessions share BYTES coming from the server
 *   append   M sessions share BYTES going to the server
 *   hold     M sessions do nothing
 *
 * It speaks with its parent in lines: it prints a JSON object with "event": "ready" once it has
 * logged in (logins: at once, or with a ticket in hand), waits for a line on standard input, works,
 * prints "event": "done" with the figures, and for all but logins waits for another line before it
 * closes.  The end of its input ends it at once.  No phase outlasts the limit.  Awake, it does not
 * sleep while it waits for the proxy.
 */
#include "client.h"

#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

struct options opt = { .concurrency = 20, .count = 1000, .sessions = 1, .bytes = 1 << 20,
		       .limit = 30, .user = "user", .password = "password" };

static int timed_out;

/* Runs the loop until *what reaches goal, from above or below, or the limit is over. */
static void run_until(const long *what, long goal, int down)
{
	struct epoll_event events[256];
	uint64_t end = now() + (uint64_t)(opt.limit * 1e9);
	while (down ? *what > goal : *what + (what == &ready ? errors : 0) < goal) {
		int n = epoll_wait(poll_fd, events, 256, opt.awake ? 0 : 100);
		if (!n && opt.awake)
			sched_yield();
		for (int i = 0; i < n; i++)
			drive(events[i].data.ptr, events[i].events);
		if (now() > end) {
			timed_out = 1;
			return;
		}
	}
}

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static void report(const char *event, uint64_t since)
{
	qsort(latency, latencies, sizeof *latency, by_size);
	printf("{\"event\": \"%s\", \"count\": %ld, \"errors\": %ld, \"error\": \"", event,
	       opt.mode == LOGINS ? finished - errors : latencies, errors);
	for (const char *s = first_error; *s; s++)
		putchar(*s < ' ' || *s == '"' || *s == '\\' ? ' ' : *s);
	printf("\", \"timed_out\": %s, \"seconds\": %.6f, \"p50_us\": %u, \"p99_us\": %u, "
	       "\"received\": %lld, \"sent\": %lld, \"resumed\": %ld, \"alive\": %ld}\n",
	       timed_out ? "true" : "false", (now() - since) / 1e9,
	       latencies ? latency[latencies / 2] : 0, latencies ? latency[latencies * 99 / 100] : 0,
	       received, sent, resumed, ready);
	fflush(stdout);
}

static void wait_for_line(void)
{
	char byte;
	do {
		if (read(STDIN_FILENO, &byte, 1) <= 0)
			exit(0);
	} while (byte != '\n');
}

static void start(long how_many, int at_once)
{
	launched = finished = errors = latencies = resumed = 0;
	target = how_many;
	for (int i = 0; i < at_once; i++)
		launch();
}

static void run_logins(void)
{
	if (opt.resume) {
		start(1, 1);
		run_until(&finished, 1, 0);
	}
	report("ready", now());
	wait_for_line();
	uint64_t since = now();
	start(opt.count, opt.concurrency);
	run_until(&finished, opt.count, 0);
	report("done", since);
}

static void give_work(void)
{
	busy = ready;
	for (long i = 0; i < ready; i++) {
		roster[i]->step = WORK;
		roster[i]->left = opt.mode == PING ? opt.count / opt.sessions : 1;
		next_work(roster[i]);
		drive(roster[i], 0);
	}
}

/* Work is given only when every login succeeded: the roster is then exact. */
static void run_sessions(void)
{
	struct epoll_event events[256];
	uint64_t since = now();
	start(opt.sessions, opt.concurrency);
	run_until(&ready, opt.sessions, 0);
	report("ready", since);
	wait_for_line();
	latencies = 0;
	since = now();
	if (opt.mode == HOLD) {
		for (int n; (n = epoll_wait(poll_fd, events, 256, 0)) > 0;)
			for (int i = 0; i < n; i++)
				drive(events[i].data.ptr, events[i].events);
	} else if (!errors && !timed_out) {
		give_work();
		run_until(&busy, 0, 1);
	}
	report("done", since);
	wait_for_line();
}

static void parse(int argc, char **argv)
{
	static const char *modes[] = { "logins", "ping", "fetch", "append", "hold" };
	static const struct option names[] = {
		{ "port", 1, 0, 'p' }, { "tls", 1, 0, 't' }, { "count", 1, 0, 'n' },
		{ "concurrency", 1, 0, 'k' }, { "bytes", 1, 0, 'b' }, { "sessions", 1, 0, 'm' },
		{ "awake", 1, 0, 'a' }, { "limit", 1, 0, 'l' }, { "user", 1, 0, 'u' },
		{ "password", 1, 0, 'w' }, { 0 } };
	int known = 0, o;
	while ((o = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (o) {
		case 'p': opt.port = atoi(optarg); break;
		case 't': opt.tls = 1; opt.resume = !strcmp(optarg, "resumed"); break;
		case 'n': opt.count = atol(optarg); break;
		case 'k': opt.concurrency = atoi(optarg); break;
		case 'b': opt.bytes = atoll(optarg); break;
		case 'm': opt.sessions = atol(optarg); break;
		case 'a': opt.awake = atoi(optarg); break;
		case 'l': opt.limit = atof(optarg); break;
		case 'u': opt.user = optarg; break;
		case 'w': opt.password = optarg; break;
		default: exit(2);
		}
	}
	for (int i = 0; i <= HOLD && optind < argc; i++)
		if (!strcmp(argv[optind], modes[i])) {
			opt.mode = i;
			known = 1;
		}
	if (!known || !opt.port || opt.count < 1 || opt.sessions < 1 || opt.bytes < opt.sessions) {
		fprintf(stderr, "load: see the top of load.c for how to call it\n");
		exit(2);
	}
}

static void allow_many_files(void)
{
	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
}

int main(int argc, char **argv)
{
	parse(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	allow_many_files();
	prepare_client();
	if (opt.mode == LOGINS)
		run_logins();
	else
		run_sessions();
}
