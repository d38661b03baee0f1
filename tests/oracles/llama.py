"""Models of transformers of the types Llama, Mistral and Arcee, from config and weights, head by head in float64."""

import math

import torch


def logits(config, weights, tokens):
    """Return (T, V) for tokens (T,); every sum as the papers write it."""
    w = {name: value.double() for name, value in weights.items()}
    heads, dimension = config["num_attention_heads"], config["hidden_size"] // config["num_attention_heads"]
    shared = heads // config.get("num_key_value_heads", heads)
    x = w["model.embed_tokens.weight"][tokens]  # (T, width)
    for layer in range(config["num_hidden_layers"]):
        own = f"model.layers.{layer}."
        y = norm(x, w[own + "input_layernorm.weight"], config["rms_norm_eps"])
        q, k, v = (y @ w[f"{own}self_attn.{name}_proj.weight"].T for name in "qkv")
        mixed = []
        for head in range(heads):
            mine, group = slice(head * dimension, (head + 1) * dimension), head // shared
            theirs = slice(group * dimension, (group + 1) * dimension)
            mixed.append(attend(q[:, mine], k[:, theirs], v[:, theirs], config))
        x = x + torch.cat(mixed, 1) @ w[own + "self_attn.o_proj.weight"].T
        y = norm(x, w[own + "post_attention_layernorm.weight"], config["rms_norm_eps"])
        up = y @ w[own + "mlp.up_proj.weight"].T
        if config["hidden_act"] == "silu":
            gate = y @ w[own + "mlp.gate_proj.weight"].T
            hidden = gate / (1 + torch.exp(-gate)) * up
        else:
            hidden = up * (1 + torch.erf(up / math.sqrt(2))) / 2
        x = x + hidden @ w[own + "mlp.down_proj.weight"].T
    x = norm(x, w["model.norm.weight"], config["rms_norm_eps"])
    return x @ w["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"].T


def norm(x, weight, eps):
    return x / torch.sqrt((x * x).mean(1, keepdim=True) + eps) * weight


def attend(q, k, v, config):
    """Return (T, D) of one head."""
    theta, window = config["rope_parameters"]["rope_theta"], config.get("sliding_window")
    rows = []
    for i in range(len(q)):
        first = 0 if window is None else max(0, i - window + 1)
        turned = [turn(k[j], j, theta) for j in range(first, i + 1)]
        scores = torch.stack([turn(q[i], i, theta) @ key for key in turned]) / math.sqrt(q.shape[1])
        rows.append(scores.softmax(0) @ v[first : i + 1])
    return torch.stack(rows)


def turn(x, position, theta):
    """Return x (D,) with each pair (m, m + D/2) turned by position theta^(-2 m / D)."""
    half = len(x) // 2
    out = x.clone()
    for m in range(half):
        angle = position * theta ** (-m / half)
        out[m] = x[m] * math.cos(angle) - x[m + half] * math.sin(angle)
        out[m + half] = x[m + half] * math.cos(angle) + x[m] * math.sin(angle)
    return out
