// Sizes of a convolution of x [N, H, W, C] with filters [K, R, S, C] to y [N, P, Q, K]: strides, zeros above and left of the map,
// distances between taps. Of conv2d.wgsl and conv2d_depthwise.wgsl.

override H: u32 = 1;
override W: u32 = 1;
override C: u32 = 1;
override K: u32 = 1;
override R: u32 = 1;
override S: u32 = 1;
override P: u32 = 1;
override Q: u32 = 1;
override SH: i32 = 1;
override SW: i32 = 1;
override PT: i32 = 0;
override PL: i32 = 0;
override DH: i32 = 1;
override DW: i32 = 1;
