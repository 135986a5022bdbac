//! Which fonts there are, which one a request means, and which can draw a phrase.
//!
//! Owns the list: `FONT_DIRS` in path order, then one font compiled into the program, then the system's. Building a
//! library costs nothing; names and tables are read on first use, glyphs not at all. A name from outside is looked up below
//! the font folders only. Shaping is [`super::typeset`]'s. One library serves all jobs.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};

use cosmic_text::fontdb::{self, Database, FaceInfo, Source};
use cosmic_text::skrifa::raw::TableProvider;
use cosmic_text::skrifa::{FontRef, MetadataProvider, Tag};

/// Name of the compiled-in font, accepted as `font_name` everywhere.
pub const BUILT_IN_FONT: &str = "DejaVuSans-Bold.ttf";

/// Folders below a font folder are searched this deep: a loop of links must end.
const MAX_DEPTH: usize = 8;
const EXTENSIONS: [&str; 4] = ["ttf", "otf", "ttc", "otc"];

/// Why no font can be used as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FontError {
    /// `font_name` is not a plain relative path.
    #[error(
        "font_name {0:?} leaves the font folders: give a file name or a path relative to a folder of FONT_DIRS, without `..`"
    )]
    Outside(String),
    /// No such file.
    #[error(
        "font_name {name:?} is not among the {available} fonts of this worker (for example {examples}); put the file into a folder of FONT_DIRS"
    )]
    NotFound {
        /// As asked.
        name: String,
        /// How many there are.
        available: usize,
        /// A few that exist.
        examples: String,
    },
    /// Characters without a glyph anywhere.
    #[error(
        "no font has a glyph for {characters}: install a font that covers them ({hint}) and put its folder into FONT_DIRS"
    )]
    NoGlyph {
        /// The characters with their code points.
        characters: String,
        /// A font that would do.
        hint: &'static str,
    },
}

/// Where a font came from, which is also the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A folder of `FONT_DIRS`.
    Folder,
    /// Compiled into the program.
    BuiltIn,
    /// Installed on the machine.
    System,
}

/// One face of the library.
#[derive(Debug, Clone)]
pub struct Face {
    /// Family name in English where the font has one.
    pub family: String,
    /// File; the built-in font has only a name.
    pub path: PathBuf,
    /// Where it came from.
    pub origin: Origin,
    info: FaceInfo,
}

impl Face {
    /// The face under a family name and weight of the caller's choice, for a database of its own.
    pub(super) fn info_as(&self, family: &str, weight: fontdb::Weight) -> FaceInfo {
        let mut info = self.info.clone();
        info.families = vec![(family.to_owned(), fontdb::Language::English_UnitedStates)];
        info.weight = weight;
        info.style = fontdb::Style::Normal;
        info.stretch = fontdb::Stretch::Normal;
        info.monospaced = false;
        info
    }

    fn file_name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }
}

struct Loaded {
    /// Reads face data; holds every face of `faces`.
    database: Database,
    faces: Vec<Arc<Face>>,
}

/// All fonts of this worker, read on first use.
pub struct FontLibrary {
    folders: Vec<PathBuf>,
    with_system: bool,
    loaded: OnceLock<Loaded>,
}

impl FontLibrary {
    /// Fonts below `folders` (`FONT_DIRS`), the built-in one and the system's. Reads nothing yet.
    pub fn new(folders: Vec<PathBuf>) -> Self {
        Self { folders, with_system: true, loaded: OnceLock::new() }
    }

    /// Without the system's fonts: what a bare machine has.
    pub fn without_system(folders: Vec<PathBuf>) -> Self {
        Self { folders, with_system: false, loaded: OnceLock::new() }
    }

    /// Every face, in order of preference.
    pub fn faces(&self) -> &[Arc<Face>] {
        &self.loaded().faces
    }

    fn loaded(&self) -> &Loaded {
        self.loaded.get_or_init(|| {
            let mut database = Database::new();
            let mut files = BTreeSet::new();
            for folder in &self.folders {
                let Ok(root) = folder.canonicalize() else {
                    tracing::warn!(folder = %folder.display(), "font folder of FONT_DIRS cannot be read");
                    continue;
                };
                collect(&root, &root, MAX_DEPTH, &mut files);
            }
            for file in &files {
                if let Err(error) = database.load_font_file(file) {
                    tracing::warn!(file = %file.display(), %error, "font file left out");
                }
            }
            let from_folders = database.len();
            database.load_font_source(Source::Binary(Arc::new(dejavu::sans::bold())));
            let built_in = database.len();
            if self.with_system {
                database.load_system_fonts();
            }
            let mut faces: Vec<_> = database
                .faces()
                .enumerate()
                .filter(|(_, info)| has_outlines(&database, info))
                .map(|(index, info)| {
                    let origin = match index {
                        _ if index < from_folders => Origin::Folder,
                        _ if index < built_in => Origin::BuiltIn,
                        _ => Origin::System,
                    };
                    Arc::new(Face {
                        family: info.families.first().map(|(name, _)| name.clone()).unwrap_or_default(),
                        path: match &info.source {
                            Source::File(path) | Source::SharedFile(path, _) => path.clone(),
                            Source::Binary(_) => BUILT_IN_FONT.into(),
                        },
                        origin,
                        info: info.clone(),
                    })
                })
                .collect();
            faces.sort_by_key(|face| preference(face));
            tracing::debug!(faces = faces.len(), "fonts read");
            Loaded { database, faces }
        })
    }

    /// The font that `name` means: a path relative to a folder of `FONT_DIRS`, else a file name (with or without its
    /// extension) of any font of the library. `None` is the first font: of `FONT_DIRS`, or the built-in one.
    ///
    /// # Errors
    /// [`FontError::Outside`] for a name that climbs, is absolute or leads out through a link; [`FontError::NotFound`].
    pub fn resolve(&self, name: Option<&str>) -> Result<Arc<Face>, FontError> {
        let faces = self.faces();
        let not_found = || FontError::NotFound {
            name: name.unwrap_or_default().to_owned(),
            available: faces.len(),
            examples: faces.iter().take(3).map(|face| face.file_name()).collect::<Vec<_>>().join(", "),
        };
        let Some(name) = name else {
            return faces.first().cloned().ok_or_else(not_found);
        };
        let relative = Path::new(name);
        let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !plain || name.contains(['\\', '\0']) {
            return Err(FontError::Outside(name.to_owned()));
        }
        for root in self.folders.iter().filter_map(|folder| folder.canonicalize().ok()) {
            let Ok(file) = root.join(relative).canonicalize() else { continue };
            if !file.starts_with(&root) {
                return Err(FontError::Outside(name.to_owned()));
            }
            if let Some(face) = faces.iter().find(|face| face.path == file) {
                return Ok(face.clone());
            }
        }
        let is_named = |face: &&Arc<Face>| {
            let stem = face.path.file_stem().and_then(|stem| stem.to_str());
            face.file_name().eq_ignore_ascii_case(name)
                || stem.is_some_and(|stem| stem.eq_ignore_ascii_case(name))
        };
        faces.iter().find(is_named).cloned().ok_or_else(not_found)
    }

    /// Which of `clusters` the face can draw whole.
    fn covered(&self, face: &Face, clusters: &[&str]) -> Vec<bool> {
        self.loaded()
            .database
            .with_face_data(face.info.id, |data, index| {
                let font = FontRef::from_index(data, index).ok()?;
                let map = font.charmap();
                let has = |c: char| is_invisible(c) || map.map(c).is_some_and(|glyph| glyph.to_u32() != 0);
                Some(clusters.iter().map(|cluster| cluster.chars().all(has)).collect())
            })
            .flatten()
            .unwrap_or_else(|| vec![false; clusters.len()])
    }

    /// A face for each of `clusters` (user-perceived characters), as indices into the returned faces.
    ///
    /// With a font asked for, it is used wherever it has the glyph. Without, the first face that has all of them is, so that
    /// a phrase does not mix fonts needlessly. What is left goes to the face that covers most of the rest.
    ///
    /// # Errors
    /// [`FontError`]; [`FontError::NoGlyph`] names what no font can draw.
    pub fn assign(
        &self,
        clusters: &[&str],
        name: Option<&str>,
    ) -> Result<(Vec<Arc<Face>>, Vec<usize>), FontError> {
        let first = self.resolve(name)?;
        let distinct: Vec<&str> = clusters.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let mut chosen: Vec<Arc<Face>> = Vec::new();
        let mut owner: Vec<Option<usize>> = vec![None; distinct.len()];

        let candidates = std::iter::once(&first).chain(self.faces());
        let mut coverage: Vec<(&Arc<Face>, Vec<bool>)> = Vec::new();
        for face in candidates {
            let covered = self.covered(face, &distinct);
            let complete = covered.iter().all(|&has| has);
            if complete && (name.is_none() || coverage.is_empty()) {
                return Ok((vec![face.clone()], vec![0; clusters.len()]));
            }
            coverage.push((face, covered));
        }
        // The first face keeps what it can draw; then greedily whoever draws most of the rest, earlier faces first.
        let mut next = 0;
        loop {
            if let Some((face, covered)) = coverage.get(next) {
                for (owner, _) in
                    owner.iter_mut().zip(covered).filter(|(owner, has)| owner.is_none() && **has)
                {
                    *owner = Some(chosen.len());
                }
                chosen.push(Arc::clone(face));
            }
            let missing =
                |covered: &[bool]| owner.iter().zip(covered).filter(|(o, has)| o.is_none() && **has).count();
            let best = coverage.iter().enumerate().rev().max_by_key(|(_, (_, covered))| missing(covered));
            match best {
                Some((index, (_, covered))) if missing(covered) > 0 => next = index,
                _ => break,
            }
        }
        let undrawable: Vec<&str> =
            distinct.iter().zip(&owner).filter(|(_, o)| o.is_none()).map(|(cluster, _)| *cluster).collect();
        if !undrawable.is_empty() {
            return Err(no_glyph(&undrawable));
        }
        let owners = clusters
            .iter()
            .map(|cluster| distinct.binary_search(cluster).ok().and_then(|index| owner[index]).unwrap_or(0))
            .collect();
        Ok((chosen, owners))
    }
}

/// Adds the font files below `folder`, following links only to places below `root`.
fn collect(root: &Path, folder: &Path, depth: usize, files: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(path) = entry.path().canonicalize() else { continue };
        if !path.starts_with(root) {
            continue;
        }
        if path.is_dir() {
            if depth > 0 {
                collect(root, &path, depth - 1, files);
            }
        } else if path
            .extension()
            .and_then(|e| e.to_str())
            .is_some_and(|e| EXTENSIONS.iter().any(|known| e.eq_ignore_ascii_case(known)))
        {
            files.insert(path);
        }
    }
}

/// Fonts of bitmaps or colour layers alone give no shape to work with.
fn has_outlines(database: &Database, info: &FaceInfo) -> bool {
    database
        .with_face_data(info.id, |data, index| {
            FontRef::from_index(data, index).is_ok_and(|font| {
                [b"glyf", b"CFF ", b"CFF2"].iter().any(|tag| font.data_for_tag(Tag::new(tag)).is_some())
            })
        })
        .unwrap_or(false)
}

/// Order among faces: origin; for the system's, upright, proportional and near bold first, since a sign needs weight.
fn preference(face: &Face) -> impl Ord + use<> {
    let info = &face.info;
    let system = face.origin == Origin::System;
    let style = (
        info.style != fontdb::Style::Normal,
        info.monospaced,
        info.stretch != fontdb::Stretch::Normal,
        info.weight.0.abs_diff(fontdb::Weight::BOLD.0),
    );
    (face.origin, system.then_some(style), face.path.clone(), info.index)
}

/// Drawn by nobody: spaces, joiners, variation selectors, direction marks.
pub(super) fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
}

fn no_glyph(clusters: &[&str]) -> FontError {
    const SHOWN: usize = 8;
    let mut shown: Vec<String> = clusters
        .iter()
        .take(SHOWN)
        .map(|cluster| {
            let codes: Vec<String> = cluster.chars().map(|c| format!("U+{:04X}", u32::from(c))).collect();
            format!("{cluster:?} ({})", codes.join(" "))
        })
        .collect();
    if clusters.len() > SHOWN {
        shown.push(format!("and {} more", clusters.len() - SHOWN));
    }
    let hint = match clusters.iter().flat_map(|cluster| cluster.chars()).find(|&c| !is_invisible(c)) {
        Some(
            '\u{1100}'..='\u{11ff}'
            | '\u{3130}'..='\u{318f}'
            | '\u{a960}'..='\u{a97f}'
            | '\u{ac00}'..='\u{d7ff}',
        ) => "Nanum Gothic or Noto Sans KR, Debian package fonts-nanum",
        Some(
            '\u{2e80}'..='\u{9fff}'
            | '\u{f900}'..='\u{faff}'
            | '\u{ff00}'..='\u{ffef}'
            | '\u{20000}'..='\u{3ffff}',
        ) => "Noto Sans CJK, Debian package fonts-noto-cjk",
        Some('\u{1f000}'..='\u{1faff}' | '\u{2600}'..='\u{27bf}') => {
            "a font with outlines; colour emoji cannot be drawn as an object"
        }
        _ => "a Noto font of their script, Debian package fonts-noto-core",
    };
    FontError::NoGlyph { characters: shown.join(", "), hint }
}
