// Package compose holds the image and the compose file of a cluster in
// containers, for a test to check them; it has no code. README.md tells how
// they are used, and what is not tested.
package compose
