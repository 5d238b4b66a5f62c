package vfs

// OSNamed is OS where every file needs a name.
var OSNamed FS = osFS{named: true}
