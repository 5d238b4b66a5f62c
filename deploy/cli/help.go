package cli

const rootLong = `waypost is a sharded mail cluster in one program. Mail comes in by SMTP at
any mx, lies in Maildirs on many plain machines (backends), and is read by
IMAP and POP3 through any proxy. A directory in etcd says which backend is a
user's home; users are moved between backends while they work, and nobody
sees more than a pause.

DESCRIPTION
  "waypost up" runs a whole cluster on this machine, in one process: embedded
  etcd, a director, three backends (b1 b2 b3), two mx (mx1 mx2), two proxies
  (p1 p2) and a mover. It listens on 127.0.0.1:

    SMTP 2525 2526    submission 1587    admin API and console 8080
    IMAP 1143 1144    IMAPS 1993         ManageSieve 14190
    POP3 1110 1111    POP3S 1995

  --offset N adds N to every port. For a cluster on many machines "waypost
  init" makes certificates and commented configuration files; then each
  machine runs its role from its file: waypost backend --config FILE.

  The other commands talk to the admin API of a running cluster. They find it
  by the file cli.json in --data DIR (or WAYPOST_DATA, or ./waypost-data), or
  by --admin HOST:PORT --ca FILE --cert FILE --key FILE.

FILES
  DIR/cli.json              where the admin API is, and the certificate for it;
                            written by up and init
  /etc/waypost/             a node's certificates and its configuration, as the
                            systemd units expect them: backend-b1.toml
  /var/lib/waypost/         a node's data

ENVIRONMENT
  WAYPOST_DATA              the folder of --data where that is not given
  NOTIFY_SOCKET, WATCHDOG_USEC
                            set by systemd; a role tells it when it is ready,
                            stops, and lives

EXIT STATUS
  0 done    1 failed    2 wrong usage

JSON
  With --json a command prints JSON instead of a table. Names are lower case
  with underscores, units are in the names (used_bytes). New names may be
  added; those that exist stay.`

const rootExample = `  # A cluster with a domain and a few users; leave it running.
  waypost up --demo

  # In a second terminal, in the same folder:
  waypost status
  echo 'a long secret' | waypost user add dora@example.test --home b1
  printf 'Subject: hello\r\n\r\nHello, Dora.\r\n' |
    curl -s smtp://127.0.0.1:2525 --mail-from eve@example.org --mail-rcpt dora@example.test -T -
  curl -sk 'imaps://127.0.0.1:1993/INBOX;MAILINDEX=1' -u 'dora@example.test:a long secret'
  waypost move dora@example.test --to b2
  waypost user show dora@example.test --json

  # From the source tree, without installing:
  go run . up --demo`
