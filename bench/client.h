/* What the phases of a load (load.c) and its clients (client.c) share. */
#ifndef CLIENT_H
#define CLIENT_H
#define _GNU_SOURCE
#include <openssl/ssl.h>
#include <stdint.h>

enum mode { LOGINS, PING, FETCH, APPEND, HOLD };
enum step { CONNECT, HANDSHAKE, GREETING, LOGIN, READY, WORK, LOGOUT, CLOSE };

struct conn {
	int fd;
	enum step step;
	SSL *ssl;
	uint64_t started;      /* ns: of the login, then of the command */
	long long skip;        /* literal bytes still to come */
	long long upload;      /* literal bytes still to send */
	long left;             /* commands still to send */
	unsigned line_len, out_len, out_done;
	char line[512], out[256];
};

struct options {
	enum mode mode;
	int port, tls, resume, concurrency;
	int awake;             /* does not sleep while it waits */
	long count, sessions;
	long long bytes;
	double limit;
	const char *user, *password;
};

extern struct options opt;

extern long launched, target;          /* clients so far, and how many there shall be */
extern long finished, errors;          /* closed, and closed before their time */
extern long ready, busy;               /* sessions that wait, and that work */
extern long resumed, latencies;
extern long long received, sent;       /* literal bytes */
extern uint32_t *latency;              /* us */
extern char first_error[160];
extern int poll_fd;
extern struct conn **roster;           /* the sessions that are logged in and wait for work */

uint64_t now(void);
void prepare_client(void);
void launch(void);                     /* one more client, unless there are enough */
void next_work(struct conn *c);
void drive(struct conn *c, unsigned events);

#endif
