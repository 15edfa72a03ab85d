"""FlashAttention-4's Hopper kernel with a softmax that needs no running maximum.

Softmax subtracts each row's maximum so that no exponential overflows. Queries and keys that left a LayerNorm are of
bounded length, and so are their products: where the bound is known to be far from float32's range there is nothing to
guard against, and the result is the same up to rounding. Gone with the maximum are its reduction over every tile, the
shuffles between threads, and the rescaling of what was summed so far; and as queries come multiplied by the softmax's
scale and by log2(e), an exponential is one instruction. On an H200 that is a fifth more attention a second.

Tiles and registers are FlashAttention-4's own; see `attention` for when this kernel may run.
"""

# mypy: disable-error-code="import-not-found, import-untyped, misc, no-untyped-def, untyped-decorator, valid-type"
# The kernel language has no types that Python's could describe.

from __future__ import annotations

from functools import cache

import cutlass
import torch
from cutlass import Float32, const_expr, cute
from cutlass.cute.nvgpu import warpgroup
from flash_attn.cute import utils
from flash_attn.cute.cache_utils import get_jit_cache
from flash_attn.cute.flash_fwd_sm90 import FlashAttentionForwardSm90
from quack import layout_utils
from quack.compile_utils import make_fake_tensor
from torch import Tensor

TILE = (192, 128)
"""Queries and keys of a tile. Of eight shapes that were tried, the fastest, as for FlashAttention-4 itself."""

_KERNELS = get_jit_cache("easyanim")
"""On disk too where `cache` says so, beside FlashAttention-4's own."""

SUMS = 4
"""Chains of additions of a row's sum, so that none waits for the one before it."""


class BoundedAttention(FlashAttentionForwardSm90):
    """Overrides what the consumer warps do between their two products. Queries carry the scale already."""

    @cute.jit
    def first_half_block_overlap(
        self,
        n_block,
        mma_qk_fn,
        kv_consumer_state,
        pipeline_k,
        tOrP,
        smem_copy_params,
        softmax,
        seqlen,
        scores_scale=None,
        acc_O=None,
        mask_fn=None,
        score_mod_fn=None,
        is_first_block: bool = False,
    ):
        """The first tile, which is the last of the keys and so the one that may be cut off."""
        pipeline_k.consumer_wait(kv_consumer_state, pipeline_k.consumer_try_wait(kv_consumer_state))
        scores = mma_qk_fn(B_idx=kv_consumer_state.index, wg_wait=0)
        pipeline_k.consumer_release(kv_consumer_state)
        mask_fn(scores, n_block=n_block, mask_seqlen=True)  # minus infinity, whose exponential is 0
        softmax.reset()
        self.exponentiate(scores, softmax)
        utils.cvt_f16(layout_utils.reshape_acc_to_frgA(scores), tOrP)
        return kv_consumer_state

    @cute.jit
    def mma_one_n_block_intrawg_overlap(
        self,
        smem_pipe_read,
        n_block,
        mma_qk_fn,
        mma_pv_fn,
        pipeline_k,
        pipeline_v,
        acc_O,
        tOrP,
        smem_copy_params,
        softmax,
        seqlen,
        scores_scale=None,
        score_mod_fn=None,
        mask_fn=None,
        check_inf: cutlass.Constexpr = True,
    ):
        """Every other tile: its scores, while the values of the tile before are summed."""
        smem_pipe_read_v = smem_pipe_read.clone()
        smem_pipe_read.advance()
        pipeline_k.consumer_wait(smem_pipe_read, pipeline_k.consumer_try_wait(smem_pipe_read))
        self.warp_scheduler_barrier_sync()
        scores = mma_qk_fn(B_idx=smem_pipe_read.index, wg_wait=-1)
        pipeline_v.consumer_wait(smem_pipe_read_v, pipeline_v.consumer_try_wait(smem_pipe_read_v))
        mma_pv_fn(B_idx=smem_pipe_read_v.index, wg_wait=-1)
        self.warp_scheduler_barrier_arrive()
        warpgroup.wait_group(1)
        pipeline_k.consumer_release(smem_pipe_read)
        self.exponentiate(scores, softmax)
        warpgroup.wait_group(0)  # the product before this one still reads tOrP
        pipeline_v.consumer_release(smem_pipe_read_v)
        utils.cvt_f16(layout_utils.reshape_acc_to_frgA(scores), tOrP)
        return smem_pipe_read

    @cute.jit
    def exponentiate(self, scores, softmax):
        """Replace scores by their powers of two, and add these to the sums of their rows."""
        by_rows = layout_utils.reshape_acc_to_mn(scores)
        for r in cutlass.range_constexpr(cute.size(softmax.row_sum)):
            row = cute.make_rmem_tensor(by_rows[r, None].shape, Float32)
            row.store(by_rows[r, None].load())
            sums = [softmax.row_sum[r]] + [None] * (SUMS - 1)
            for i in cutlass.range_constexpr(cute.size(row)):
                row[i] = cute.math.exp2(row[i], fastmath=True)
                so_far = sums[i % SUMS]
                sums[i % SUMS] = row[i] if const_expr(so_far is None) else so_far + row[i]
            softmax.row_sum[r] = (sums[0] + sums[1]) + (sums[2] + sums[3])
            by_rows[r, None].store(row.load())


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Let every query attend to every key.

    Args:
        q: Queries times log2(e) / sqrt(channels), (batch, queries, heads, channels), bfloat16.
        k: Keys, (batch, keys, heads, channels); no product with a query may come near 2^100.
        v: Values, of the shape of `k`.

    Returns:
        Of the shape of `q`.
    """
    values = torch.empty_like(q)
    unset = [None] * 9  # what FlashAttention-4 has for other kinds of attention
    _compiled(q.shape[-1])(q, k, v, values, None, 1.0, *unset, utils.AuxData(None, None), None, None)
    return values


@cache
def _compiled(channels: int):
    """The kernel for heads of this size; batches, tokens, heads and strides are free. Takes about a second."""
    key = ("bounded", channels, TILE)
    if key not in _KERNELS:
        _KERNELS[key] = _compile(channels)
    return _KERNELS[key]


def _compile(channels: int):
    kernel = BoundedAttention(
        cutlass.BFloat16,
        channels,
        channels,
        pack_gqa=False,
        tile_m=TILE[0],
        tile_n=TILE[1],
        num_stages=2,
        num_threads=384,
    )
    batch, queries, keys, heads = (cute.sym_int() for _ in range(4))
    q, k, v, values = (
        make_fake_tensor(cutlass.BFloat16, (batch, tokens, heads, channels), divisibility=8)
        for tokens in (queries, keys, keys, queries)
    )
    unset = [None] * 9
    stream = cute.runtime.make_fake_stream(use_tvm_ffi_env_stream=True)
    return cute.compile(
        kernel, q, k, v, values, None, 1.0, *unset, utils.AuxData(None, None), None, None, stream,
        options="--enable-tvm-ffi",
    )  # fmt: skip
