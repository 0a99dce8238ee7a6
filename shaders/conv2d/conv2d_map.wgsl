// Sizes of a convolution that gathers: every pixel of an output map [N, OH, OW, OC] from an input map [N, IH, IW, IC]. Of
// conv2d_tile.wgsl and conv2d_subgroup.wgsl.

override IH: u32 = 1;
override IW: u32 = 1;
override IC: u32 = 1;
override OH: u32 = 1;
override OW: u32 = 1;
override OC: u32 = 1;
override R: u32 = 1;
override S: u32 = 1;
override SH: i32 = 1;
override SW: i32 = 1;
override PT: i32 = 0;
override PL: i32 = 0;
override DH: i32 = 1;
override DW: i32 = 1;
override GROUPS: u32 = 1;
override GRAD: bool = false; // dx from dy: the output map is that of x
override VEC4: bool = true; // input channels are read four at a time
