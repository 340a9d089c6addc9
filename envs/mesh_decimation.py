"""Visual meshes with a fraction of their faces, for drawing only.

The reduced vertices and faces are written into the space of the old ones in a copy of the compiled
model, so that mesh frames, geoms and indices stay what physics has, and one `MjData` serves both.

Next: `envs/renderer.py` (who draws the copy).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import hashlib
import io
from typing import Any

import mujoco
import numpy as np

from .cache import read_cached, write_cached

MIN_FACES = 250
"""A mesh is never reduced below this: fingers, seen from the wrist, would lose their shape."""
MAX_FACES = 700
"""Enough for the largest part at the sizes a policy looks at; one pedestal of 33,000 faces would
otherwise cost a third of a picture."""
CACHE_VERSION = 2


def decimate_meshes(model: mujoco.MjModel, fraction: float) -> None:
    """Reduce, in place, every mesh that a geom of a drawn group uses, but not those with a picture
    on them: a can without its label is another object.

    The result is kept in the user's cache folder, because computing it takes seconds.
    """
    drawn = [
        geom
        for geom in range(model.ngeom)
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH and model.geom_group[geom] != 0
    ]
    labelled = {int(model.geom_dataid[geom]) for geom in drawn if _has_picture(model, geom)}
    meshes = sorted({int(model.geom_dataid[geom]) for geom in drawn} - labelled)
    meshes = [m for m in meshes if model.mesh_facenum[m] > MIN_FACES]
    digest = hashlib.sha256(f"{CACHE_VERSION} {fraction} {sorted(labelled)}".encode())
    digest.update(model.mesh_vert.tobytes())
    digest.update(model.mesh_face.tobytes())
    name = f"meshes-{digest.hexdigest()[:24]}.npz"
    packed = read_cached(name)
    if packed is None:
        reduced = {mesh: _simplify(model, mesh, fraction) for mesh in meshes}
        write_cached(name, _pack(reduced))
    else:
        reduced = _unpack(packed)
    for mesh, (vertices, faces) in reduced.items():
        _write(model, mesh, vertices, faces)


def _has_picture(model: mujoco.MjModel, geom: int) -> bool:
    """Whether a texture lies on the mesh by coordinates of its own, which reducing would lose."""
    material = model.geom_matid[geom]
    textured = material >= 0 and np.any(np.ravel(model.mat_texid[material]) >= 0)
    return bool(textured and model.mesh_texcoordadr[model.geom_dataid[geom]] >= 0)


def _simplify(model: mujoco.MjModel, mesh: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    import fast_simplification

    face_count = int(model.mesh_facenum[mesh])
    vertices = _rows(model.mesh_vert, int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh]))
    faces = _rows(model.mesh_face, int(model.mesh_faceadr[mesh]), face_count)
    target = min(MAX_FACES, max(MIN_FACES, int(face_count * fraction)))
    # MuJoCo keeps the duplicate vertices of STL files; welding them lets edges collapse.
    vertices, weld = np.unique(vertices.round(6), axis=0, return_inverse=True)
    faces = np.asarray(weld.reshape(-1)[faces], np.int32)
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2])]
    faces = np.ascontiguousarray(faces[faces[:, 2] != faces[:, 0]])
    for eagerness in (7, 10, 12):  # meshes of many loose parts resist the gentle ones
        if len(faces) > 1.1 * target:
            vertices, faces = fast_simplification.simplify(
                vertices, faces.astype(np.int32), target_count=target, agg=eagerness
            )[:2]
    return np.asarray(vertices, np.float32), np.asarray(faces, np.int32)


def _rows(array: np.ndarray, start: int, count: int) -> np.ndarray:
    return array[start : start + count]


def _write(model: mujoco.MjModel, mesh: int, vertices: np.ndarray, faces: np.ndarray) -> None:
    """Put a smaller mesh where the old one was, with a normal per vertex."""
    normals = np.zeros_like(vertices)
    corners = vertices[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    for corner in range(3):
        np.add.at(normals, faces[:, corner], face_normals)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    room = min(int(model.mesh_vertnum[mesh]), int(model.mesh_normalnum[mesh]))
    if len(vertices) > room or len(faces) > model.mesh_facenum[mesh]:
        return  # no smaller than it was: draw the original
    vert, face, normal = (
        int(model.mesh_vertadr[mesh]),
        int(model.mesh_faceadr[mesh]),
        int(model.mesh_normaladr[mesh]),
    )
    model.mesh_vert[vert : vert + len(vertices)] = vertices
    model.mesh_normal[normal : normal + len(vertices)] = normals
    model.mesh_face[face : face + len(faces)] = faces
    model.mesh_facenormal[face : face + len(faces)] = faces
    model.mesh_vertnum[mesh] = model.mesh_normalnum[mesh] = len(vertices)
    model.mesh_facenum[mesh] = len(faces)
    model.mesh_texcoordadr[mesh] = -1


def _unpack(packed: bytes) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    with np.load(io.BytesIO(packed), allow_pickle=False) as saved:
        meshes = [int(name[4:]) for name in saved.files if name.startswith("vert")]
        return {mesh: (saved[f"vert{mesh}"], saved[f"face{mesh}"]) for mesh in meshes}


def _pack(reduced: dict[int, tuple[np.ndarray, np.ndarray]]) -> bytes:
    arrays: dict[str, Any] = {f"vert{mesh}": vertices for mesh, (vertices, _) in reduced.items()}
    arrays |= {f"face{mesh}": faces for mesh, (_, faces) in reduced.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
