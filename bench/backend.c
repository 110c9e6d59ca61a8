/* A do-nothing IMAP server on loopback, so that a benchmark measures the proxy in front of it.
 *
 * It greets, accepts every login (atoms, quoted strings, literals of both kinds, SASL), answers
 * commands with OK, sinks literals of any length and sends FETCH-like literals of any length.
 * One thread, one epoll.  It prints "port N" and lives until its standard input is closed.  Each line
 * there lets it stay awake when there is nothing to do, or go to sleep again.
 * The load client does not pipeline behind FETCH, so input waits while output is pending.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define CAPABILITY "CAPABILITY IMAP4rev1 SASL-IR LITERAL+ ID ENABLE IDLE"
#define GREETING "* OK [" CAPABILITY "] ready\r\n"
#define CHUNK (256 * 1024)

struct peer {
	int fd;
	int in_command;      /* the next line goes on with the command of the last one */
	int closing;         /* close when the output is out */
	long long skip;      /* literal bytes of the client still to come */
	long long source;    /* literal bytes still to send */
	unsigned line_len, out_len, out_done;
	char tag[32], verb[16], word[32];
	char line[1024], out[512];
};

static char input[CHUNK], filler[CHUNK];
static int poll_fd, awake;

static void say(struct peer *p, const char *text)
{
	int room = (int)(sizeof p->out - p->out_len);
	int n = snprintf(p->out + p->out_len, room, "%s", text);
	p->out_len += n < room ? n : room - 1;
}

static void say_tagged(struct peer *p, const char *text)
{
	char reply[256];
	snprintf(reply, sizeof reply, "%s OK %s\r\n", p->tag, text);
	say(p, reply);
}

static void answer(struct peer *p)
{
	if (!strcasecmp(p->verb, "LOGIN") || !strcasecmp(p->verb, "AUTHENTICATE")) {
		say_tagged(p, "[" CAPABILITY "] Logged in");
	} else if (!strcasecmp(p->verb, "FETCH")) {
		char head[64];
		p->source = atoll(p->word);
		snprintf(head, sizeof head, "* 1 FETCH (BODY[] {%lld}\r\n", p->source);
		say(p, head);
	} else if (!strcasecmp(p->verb, "LOGOUT")) {
		say(p, "* BYE Logging out\r\n");
		say_tagged(p, "Logout completed");
		p->closing = 1;
	} else if (!strcasecmp(p->verb, "CAPABILITY")) {
		say(p, "* " CAPABILITY "\r\n");
		say_tagged(p, "done");
	} else if (!strcasecmp(p->verb, "ID")) {
		say(p, "* ID NIL\r\n");
		say_tagged(p, "done");
	} else {
		say_tagged(p, "done");
	}
}

/* The length of the literal that the line announces, or -1; *waits: the client wants a "+". */
static long long literal(const char *line, size_t len, int *waits)
{
	if (!len || line[len - 1] != '}')
		return -1;
	const char *open = memrchr(line, '{', len);
	if (!open)
		return -1;
	*waits = line[len - 2] != '+';
	return atoll(open + 1);
}

static void take_line(struct peer *p)
{
	size_t len = p->line_len;
	int waits = 0;
	while (len && (p->line[len - 1] == '\n' || p->line[len - 1] == '\r'))
		len--;
	p->line[len] = 0;
	p->line_len = 0;
	if (!p->in_command) {
		p->tag[0] = p->verb[0] = p->word[0] = 0;
		sscanf(p->line, "%31s %15s %31s", p->tag, p->verb, p->word);
		if (!strcasecmp(p->verb, "AUTHENTICATE") && !strrchr(p->line + strlen(p->tag) + 14, ' ')) {
			p->in_command = 1;
			say(p, "+ \r\n");
			return;
		}
	}
	long long n = literal(p->line, len, &waits);
	p->in_command = n >= 0;
	if (n < 0) {
		answer(p);
		return;
	}
	p->skip = n;
	if (waits)
		say(p, "+ go on\r\n");
}

static void take(struct peer *p, const char *data, size_t n)
{
	while (n) {
		size_t used = n;
		if (p->skip) {
			if ((long long)used > p->skip)
				used = p->skip;
			p->skip -= used;
		} else {
			const char *end = memchr(data, '\n', n);
			if (end)
				used = end - data + 1;
			size_t room = sizeof p->line - 1 - p->line_len;
			size_t kept = used < room ? used : room;
			memcpy(p->line + p->line_len, data, kept);
			p->line_len += kept;
			if (end)
				take_line(p);
		}
		data += used;
		n -= used;
	}
}

/* Sends what it can; 0: all is out, 1: the socket is full, -1: the peer is gone. */
static int flush(struct peer *p)
{
	for (;;) {
		ssize_t n;
		if (p->out_done < p->out_len) {
			n = send(p->fd, p->out + p->out_done, p->out_len - p->out_done, MSG_NOSIGNAL);
			if (n > 0)
				p->out_done += n;
		} else if (p->source) {
			p->out_len = p->out_done = 0;
			n = send(p->fd, filler, p->source < CHUNK ? p->source : CHUNK, MSG_NOSIGNAL);
			if (n > 0 && !(p->source -= n)) {
				say(p, ")\r\n");
				say_tagged(p, "done");
			}
		} else {
			p->out_len = p->out_done = 0;
			return 0;
		}
		if (n < 0)
			return errno == EAGAIN ? 1 : -1;
	}
}

static void watch(struct peer *p, int op, unsigned events)
{
	struct epoll_event ev = { .events = events, .data.ptr = p };
	epoll_ctl(poll_fd, op, p->fd, &ev);
}

static void drop(struct peer *p)
{
	close(p->fd);
	free(p);
}

static void serve(struct peer *p, unsigned events)
{
	if (!(events & EPOLLOUT)) {
		ssize_t n = recv(p->fd, input, sizeof input, 0);
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			drop(p);
			return;
		}
		take(p, input, n);
	}
	int full = flush(p);
	if (full < 0 || (!full && p->closing))
		drop(p);
	else if (full && !(events & EPOLLOUT))
		watch(p, EPOLL_CTL_MOD, EPOLLOUT);
	else if (!full && (events & EPOLLOUT))
		watch(p, EPOLL_CTL_MOD, EPOLLIN);
}

static void welcome(int listener)
{
	for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
		struct peer *p = calloc(1, sizeof *p);
		int on = 1;
		if (!p)
			abort();
		p->fd = fd;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		watch(p, EPOLL_CTL_ADD, EPOLLIN);
		send(fd, GREETING, sizeof GREETING - 1, MSG_NOSIGNAL);
	}
}

static int listen_anywhere(void)
{
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof here;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&here, len) || listen(fd, 4096)
	    || getsockname(fd, (struct sockaddr *)&here, &len)) {
		perror("backend");
		exit(1);
	}
	printf("port %d\n", ntohs(here.sin_port));
	fflush(stdout);
	return fd;
}

int main(void)
{
	struct rlimit files;
	struct epoll_event events[256];
	signal(SIGPIPE, SIG_IGN);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	memset(filler, 'x', sizeof filler);
	poll_fd = epoll_create1(0);
	int listener = listen_anywhere();
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = &listener };
	epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &ev);
	ev.data.ptr = NULL;
	epoll_ctl(poll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &ev);
	for (;;) {
		int n = epoll_wait(poll_fd, events, 256, awake ? 0 : -1);
		if (!n)
			sched_yield();
		for (int i = 0; i < n; i++) {
			if (!events[i].data.ptr) {
				if (read(STDIN_FILENO, input, 1) <= 0)
					return 0;
				awake = !awake;
			} else if (events[i].data.ptr == &listener) {
				welcome(listener);
			} else {
				serve(events[i].data.ptr, events[i].events);
			}
		}
	}
}
