"""Architectures of timm, one or more of each of its families."""

from __future__ import annotations

from .architectures_build import SIZE, Architecture

_SMALL = ((3, 64, 96), (3, 64, 64))
_SQUARE = ((3, 64, 64),)
_PATCHES_OF_14 = ((3, 70, 56), (3, 70, 70))
_LARGER = ((3, 128, 192), (3, 128, 128))
_DEEP_IMAGES = ((3, 192, 256), (3, 192, 192))
_STRIDE_OF_64 = ((3, 256, 384), (3, 256, 256))
_SIZED = {"img_size": SIZE}
_VIT = {"img_size": SIZE, "depth": 4, "embed_dim": 48, "num_heads": 3}
_SWIN = {"img_size": SIZE, "embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 2)}

_PLAIN = """
    caformer_s18 convnext_atto cs3darknet_focus_s cspdarknet53 cspnext_tiny davit_tiny dla34 eca_nfnet_l0
    ecaresnet26t edgenext_xx_small efficientvit_b0 ese_vovnet19b_slim_dw fasternet_t0 fastvit_sa12 fastvit_t8
    focalnet_tiny_srf gernet_s ghostnet_100 ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnet_tiny hgnetv2_b0
    hrnet_w18_small iformer_t inception_next_atto lcnetv2_small legacy_seresnet18 legacy_xception mambaout_femto
    mobilenetv1_100 mobilenetv3_small_050 mobileone_s0 mobilevitv2_050 nf_regnet_b0 poolformer_s12 pvt_v2_b0
    regnetx_002 regnety_002 regnetz_005 repghostnet_050 repvit_m0_9 res2net50_26w_4s resnest14d resnet10t
    resnetv2_18 rexnet_100 selecsls42 skresnet18 starnet_s050 swiftformer_xs vovnet39a xception41
"""
#: Deep ones without much that passes by: of small images all places see all of it.
_DEEP = """
    efficientnet_b0 efficientnet_lite0 fbnetc_100 fbnetv3_b lcnet_035 mixnet_s mnasnet_small mobilenet_edgetpu_v2_xs
    mobilenetv2_035 mobilenetv4_conv_small spnasnet_100 tinynet_e
"""
_CALIBRATED = "cpubone_nano gcresnet33ts lowformer_b0 mobilevit_xxs tiny_vit_5m_224"
_VITS = """
    beit3_base_patch16_224 beit_base_patch16_224 beitv2_base_patch16_224 deit3_small_patch16_224
    deit_tiny_distilled_patch16_224 eva02_base_patch16_clip_224 flexivit_small samvit_base_patch16_224
    vit_base_patch16_clip_224 vit_base_patch16_rope_224 vit_base_patch16_rpn_224 vit_base_patch16_xp_224
    vit_little_patch16_reg4_gap_256 vit_medium_patch16_gap_240 vit_pe_core_tiny_patch16_384
    vit_relpos_base_patch16_clsgap_224 vit_relpos_small_patch16_224 vit_small_patch16_dinov3
    vit_srelpos_small_patch16_224 vit_tiny_patch16_224
"""
_VITS_OF_14 = """
    aimv2_large_patch14_224 eva02_tiny_patch14_224 eva_giant_patch14_224 vit_small_patch14_dinov2
    vit_small_patch14_reg4_dinov2
"""
_OF_A_SIZE = """
    botnet26t_256 coat_lite_tiny coatnext_nano_rw_224 efficientformerv2_s0 gcvit_xxtiny gmixer_12_224
    gmlp_ti16_224 maxvit_nano_rw_256 maxxvit_rmlp_nano_rw_256 mixer_s32_224 pit_ti_224 pit_ti_distilled_224
    resmlp_12_224 xcit_nano_12_p16_224
"""

TIMM = [
    *(Architecture("timm", name) for name in _PLAIN.split()),
    *(Architecture("timm", name, {}, _DEEP_IMAGES) for name in _DEEP.split()),
    *(Architecture("timm", name, _VIT) for name in _VITS.split()),
    *(Architecture("timm", name, _VIT, _PATCHES_OF_14) for name in _VITS_OF_14.split()),
    *(Architecture("timm", name, _SIZED, _LARGER) for name in ("levit_128s", "levit_conv_128s")),
    *(Architecture("timm", name, _SIZED) for name in _OF_A_SIZE.split()),
    # As many patches as a head has channels, in square images.
    Architecture("timm", "vit_base_patch16_siglip_224", _VIT, ((3, 64, 96), (3, 64, 64))),
    Architecture("timm", "convit_tiny", _VIT, _SQUARE),
    Architecture("timm", "nest_tiny", _SIZED, _SQUARE),
    Architecture("timm", "mvitv2_tiny", _SIZED, _SQUARE),
    *(Architecture("timm", name, {}, _STRIDE_OF_64) for name in ("efficientvim_m1", "efficientvit_m0")),
    Architecture("timm", "shvit_s1", {}, _STRIDE_OF_64, calibrated=True),
    *(Architecture("timm", name, {}, _SMALL) for name in ("rdnet_tiny", "sequencer2d_s")),
    Architecture("timm", "vitamin_small_224", _SIZED, _SMALL),
    Architecture("timm", "twins_pcpvt_small", _SIZED),
    *(
        Architecture("timm", name, {}, ((3, 160, 256), (3, 192, 192)))
        for name in ("convnextv2_atto", "lambda_resnet26t")
    ),
    Architecture("timm", "nextvit_small", {}, ((3, 96, 160), (3, 96, 96)), calibrated=True),
    *(Architecture("timm", name, calibrated=True) for name in _CALIBRATED.split()),
    Architecture("timm", "coatnet_nano_rw_224", _SIZED, _DEEP_IMAGES),
    Architecture("timm", "visformer_tiny", _SIZED, calibrated=True),
    Architecture("timm", "vit_tiny_r_s16_p8_224", {"img_size": SIZE, "depth": 4}, _LARGER),
    Architecture("timm", "cait_xxs24_224", {"img_size": SIZE, "depth": 4}),
    Architecture("timm", "tnt_s_patch16_224", {"img_size": SIZE, "depth": 4}),
    Architecture("timm", "swin_tiny_patch4_window7_224", _SWIN | {"window_size": 2}),
    Architecture("timm", "swin_s3_tiny_224", _SWIN | {"window_size": (2, 2, 2, 2)}),
    Architecture("timm", "swinv2_tiny_window8_256", _SWIN | {"window_size": 2}),
    Architecture("timm", "swinv2_cr_tiny_224", _SWIN | {"window_size": (2, 2)}),
    Architecture("timm", "efficientformer_l1", {}, ((3, 224, 224),)),
    Architecture("timm", "crossvit_9_240", {}, ((3, 240, 240),)),
    Architecture("timm", "bat_resnext26ts", {}, ((3, 256, 256),)),
    Architecture("timm", "eca_halonext26ts", {}, ((3, 256, 256),)),
    Architecture("timm", "inception_v4", {}, ((3, 128, 192), (3, 128, 128))),
    Architecture("timm", "inception_resnet_v2", {}, ((3, 128, 192),)),
    Architecture("timm", "nasnetalarge", {"num_features": 1056, "stem_size": 32}),
    Architecture("timm", "volo_d1_224", _SIZED),
    Architecture("timm", "hiera_tiny_224", _SIZED),
    Architecture("timm", "hieradet_small", {"embed_dim": 24, "stages": (1, 1, 2, 1)}),
    Architecture("timm", "naflexvit_base_patch16_gap", {"depth": 4, "embed_dim": 48, "num_heads": 3}),
    Architecture(
        "timm", "naflexvit_base_patch16_map", {"depth": 4, "embed_dim": 48, "num_heads": 3}, ((3, 64, 96), (3, 64, 64))
    ),
    Architecture("timm", "deepseek_vit_412m", _VIT, _PATCHES_OF_14),
    Architecture("timm", "gemma4_vit_167m", _VIT),
    Architecture("timm", "qwen3_vit_88m", {"depth": 4, "embed_dim": 48, "num_heads": 3}),
    Architecture("timm", "qwen3_vit_88m_merge", {"depth": 4, "embed_dim": 48, "num_heads": 3}),
]
