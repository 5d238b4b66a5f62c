// Package systemd holds the units that run the roles, for a test to check them;
// it has no code. README.md tells how they are installed.
package systemd
