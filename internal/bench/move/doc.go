// Package move measures how long it takes to bring a user's mail from one server to
// another on the same machine, by loopback: by Waypost's own copying, by "doveadm
// backup" between two Dovecots, and by an rsync daemon. All have the same corpus, made
// anew for each of them.
//
// It owns the folder that a Suite is given. Waypost's part comes from the caller (a
// Peer), since this package knows no tier.
package move
