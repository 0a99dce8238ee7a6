// Machine code in the manner of RADV's disassembly, small enough to count by hand.

/**
 * A loop of 18 turns around one of 8, for a tile of which part is loaded by some waves alone:
 * BB0 before it; BB1 begins a turn; BB3 is jumped over by waves without a part; BB4 is the inner loop; BB6 ends the loop; BB7 steps;
 * BB9 is behind it.
 */
export const NESTED = `BB0:
	s_mov_b32 s7, 0                                             ; be870080
	s_load_b128 s[8:11], s[2:3], 0x20                           ; f4080201 f8000020
	v_lshlrev_b32_e32 v1, 4, v0                                 ; 30020084
	(then repeated 6 times)
BB1:
	s_cmp_lt_u32 s7, 9                                          ; bf0a8907
	s_cselect_b32 s12, 1, 0                                     ; 980c8081
	s_mov_b32 s6, 0                                             ; be860080
	s_cbranch_execz BB4                                         ; bfa50002
BB3:
	buffer_load_b128 v[4:7], v1, s[8:11], 0 offen               ; e05c0000 80420401
	v_add_nc_u32_e32 v1, 0x40, v1                               ; 4a0202ff 00000040
	s_waitcnt vmcnt(0)                                          ; bf8903f7
	ds_store_b128 v2, v[4:7]                                    ; db7c0000 00000402
BB4:
	ds_load_b128 v[8:11], v3                                    ; dbfc0000 08000003
	s_waitcnt lgkmcnt(0)                                        ; bf89fc07
	v_fmac_f32_e32 v20, v8, v9                                  ; 56281308
	v_fmac_f32_e32 v21, v8, v10                                 ; 562a1508
	v_dual_fmac_f32 v22, v8, v11 :: v_dual_mov_b32 v12, v8      ; c8101708 160c0108
	v_add_nc_u32_e32 v3, 16, v3                                 ; 4a060690
	s_add_u32 s6, s6, 2                                         ; 80068206
	s_cmp_ge_u32 s6, 16                                         ; bf099006
	s_cbranch_scc0 BB4                                          ; bfa1fff5
BB6:
	s_barrier                                                   ; bfbd0000
	s_add_u32 s5, s5, -1                                        ; 8005c105
	s_cmp_eq_i32 s7, 18                                         ; bf009207
	s_cbranch_scc1 BB9                                          ; bfa20002
BB7:
	s_add_u32 s7, s7, 1                                         ; 80078107
	s_branch BB1                                                ; bfa0ffe4
BB9:
	v_mul_lo_u32 v30, v20, v21                                  ; d72c001e 00022b14
	global_store_b128 v31, v[20:23], s[0:1]                     ; dc760000 0000141f
	s_cbranch_scc0 BB99                                         ; bfa10001
	s_endpgm                                                    ; bfb00000
`;
