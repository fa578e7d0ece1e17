//! A first manifest, from a look at the folder: Node, Python or static files.
//!
//! Invariant: what it writes is read by [`crate::parse`] without a problem (tested for each kind).

use std::fs;
use std::io;
use std::path::Path;

/// What was found and written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitResult {
    /// The manifest.
    pub text: String,
    /// What was seen, in words.
    pub found: Vec<String>,
}

/// A service as it was guessed.
struct Guess {
    lines: String,
    found: String,
}

/// Looks at a folder. Writes nothing.
pub fn init(dir: &Path) -> io::Result<InitResult> {
    fs::read_dir(dir)?;
    let guess = node(dir).or_else(|| python(dir)).or_else(|| files(dir)).unwrap_or_else(|| Guess {
        lines: "run = \"./my-program --port $PORT\"     # what starts it; it must listen on 127.0.0.1:$PORT\n".to_owned(),
        found: "nothing known: fill in `run`".to_owned(),
    });
    let text = format!(
        "# What seaworthy makes of this folder. All keys: docs/reference/manifest.md\n\n\
         # domains = [\"example.com\"]              # <folder>.localhost until you say otherwise\n\n\
         [service.web]\n{}\n\
         [[route]]\npaths = [\"/*\"]                      # the most specific path wins and inherits from the wider ones\nto    = \"web\"\n",
        guess.lines
    );
    Ok(InitResult { text, found: vec![guess.found] })
}

fn read(dir: &Path, file: &str) -> Option<String> {
    fs::read_to_string(dir.join(file)).ok()
}

fn node(dir: &Path) -> Option<Guess> {
    let package: serde_json::Value = serde_json::from_str(&read(dir, "package.json")?).ok()?;
    let install = if dir.join("package-lock.json").exists() { "npm ci" } else { "npm install" };
    let depends = |name: &str| {
        !package["dependencies"][name].is_null() || !package["devDependencies"][name].is_null()
    };
    let script = |name: &str| package["scripts"][name].is_string();
    let build = if script("build") {
        format!("build     = [\"{install}\", \"npm run build\"]\n")
    } else {
        format!("build     = [\"{install}\"]\n")
    };
    if depends("next") {
        let lines = format!(
            "{build}run       = \"npx next start -H 127.0.0.1 -p $PORT\"\ninstances = 2\nenv       = {{ NODE_ENV = \"production\" }}\n"
        );
        return Some(Guess { lines, found: "a Next.js application (package.json)".to_owned() });
    }
    if depends("vite") && script("build") && !script("start") {
        return Some(Guess {
            lines: format!(
                "{build}static    = \"dist\"\nspa       = true                      # unknown paths get index.html\n"
            ),
            found: "a Vite site (package.json)".to_owned(),
        });
    }
    let run = if script("start") {
        "npm start".to_owned()
    } else {
        let main = package["main"].as_str().filter(|main| {
            main.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"./-_".contains(&byte))
        });
        format!("node {}", main.unwrap_or("server.js"))
    };
    let lines = format!(
        "{build}run       = \"{run}\"                  # must listen on 127.0.0.1:$PORT\nhealth    = \"/\"\nenv       = {{ NODE_ENV = \"production\" }}\n"
    );
    Some(Guess { lines, found: "a Node application (package.json)".to_owned() })
}

fn python(dir: &Path) -> Option<Guess> {
    let requirements = read(dir, "requirements.txt");
    let wanted = format!(
        "{}{}",
        requirements.clone().unwrap_or_default(),
        read(dir, "pyproject.toml").unwrap_or_default()
    )
    .to_ascii_lowercase();
    let script = ["main.py", "app.py", "server.py", "manage.py"]
        .into_iter()
        .find(|file| dir.join(file).is_file());
    if wanted.is_empty() && script.is_none() {
        return None;
    }
    let (build, bin) = match requirements {
        Some(_) => (
            "build     = [\"python3 -m venv .venv\", \".venv/bin/pip install -r requirements.txt\"]\n",
            ".venv/bin/",
        ),
        None => ("", ""),
    };
    let module = script.unwrap_or("main.py").trim_end_matches(".py");
    let run = if wanted.contains("fastapi") || wanted.contains("uvicorn") {
        format!("{bin}uvicorn {module}:app --host 127.0.0.1 --port $PORT")
    } else if wanted.contains("flask") || wanted.contains("gunicorn") {
        format!("{bin}gunicorn --bind 127.0.0.1:$PORT {module}:app")
    } else if wanted.contains("django") || module == "manage" {
        format!("{bin}python manage.py runserver --noreload 127.0.0.1:$PORT")
    } else {
        format!("python3 {module}.py")
    };
    Some(Guess {
        lines: format!("{build}run       = \"{run}\"\nhealth    = \"/\"\n"),
        found: format!("a Python application ({module}.py)"),
    })
}

fn files(dir: &Path) -> Option<Guess> {
    let root = ["dist", "public", "build", "."]
        .into_iter()
        .find(|root| dir.join(root).join("index.html").is_file())?;
    Some(Guess {
        lines: format!("static    = \"{root}\"\n"),
        found: format!("static files ({root}/index.html)"),
    })
}
