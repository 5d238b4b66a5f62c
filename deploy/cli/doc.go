// Package cli is the waypost command: it parses arguments, calls the packages
// that do the work, and prints what they answer.
//
// # Contract
//
// Main is the whole of it. It gives the exit code: 0 done, 1 failed, 2 wrong
// usage; nothing else ends the process. What was asked for goes to stdout, as
// tables or with --json as JSON; errors, prompts, progress and logs go to
// stderr. An error begins with "waypost: " and says what to do. SIGINT and
// SIGTERM ask for an orderly end, a second one ends at once.
//
// Operator commands talk to the admin API (director/admin) and keep nothing.
// Passwords come from a prompt or from standard input, never from arguments.
// The JSON names are those of director/admin: other tools rely on them.
package cli
