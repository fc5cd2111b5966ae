//! The page for people, in a real browser: headless Chromium, told what to do through chromedriver.

#![allow(clippy::indexing_slicing, reason = "of JSON, where what is missing is null")]

mod stage;
mod web;

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use stage::{fill, named_without, serve};
use testkit::{Cluster, Major, PATIENCE, Port, Program, http, wait_until};
use web::Web;

/// A browser, and its one window.
struct Browser {
    port: Port,
    session: String,
    _driver: Program,
    _folder: tempfile::TempDir,
}

impl Browser {
    fn start() -> Result<Self> {
        let (port, folder) = (Port::reserve()?, tempfile::tempdir()?);
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={}", port.number())).env("HOME", folder.path());
        let mut driver = Program::start(&mut command).context("start chromedriver")?;
        driver.wait_for_line("started successfully", PATIENCE)?;
        let profile = format!("--user-data-dir={}", folder.path().join("profile").display());
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-dev-shm-usage", profile,
            ]},
        }}});
        let answer = http(port.number(), "POST", "/session", &[], &wanted.to_string())?;
        let session =
            answer.json()?["value"]["sessionId"].as_str().context("no session")?.to_owned();
        Ok(Self { port, session, _driver: driver, _folder: folder })
    }

    fn post(&self, command: &str, body: &Value) -> Result<Value> {
        let path = format!("/session/{}/{command}", self.session);
        Ok(http(self.port.number(), "POST", &path, &[], &body.to_string())?.json()?["value"]
            .clone())
    }

    /// What a function of JavaScript returns.
    fn eval(&self, script: &str) -> Result<Value> {
        self.post("execute/sync", &json!({"script": script, "args": []}))
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Result<Value> {
        self.post("goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// Types on the keyboard, into whatever has the focus.
    fn press(&self, keys: &str) -> Result<()> {
        let actions: Vec<_> = keys
            .chars()
            .flat_map(|key| {
                let key = key.to_string();
                [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]
            })
            .collect();
        let keyboard = json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]});
        self.post("actions", &keyboard).map(drop)
    }

    fn wait(&self, what: &str, script: &str) -> Result<()> {
        wait_until(what, PATIENCE, || Ok((self.eval(script)? == true).then_some(())))
            .with_context(|| self.text().unwrap_or_default())
    }

    fn text(&self) -> Result<String> {
        Ok(self.eval("return document.body.innerText")?.as_str().unwrap_or_default().to_owned())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends Chromium and all its processes; the driver goes with its program.
        let path = format!("/session/{}", self.session);
        http(self.port.number(), "DELETE", &path, &[], "").ok();
    }
}

/// Tab, as WebDriver writes it.
const TAB: &str = "\u{E004}";

#[test]
fn the_page_shows_the_herd_to_everybody() -> Result<()> {
    let primary = Cluster::builder(Major::V17).start()?;
    primary.sql("create database keep; create database \"drop<b>1\"")?;
    let web = Web::new()?;
    let yaml = serve(&[("berlin", "exclude_databases: [\"drop*\"]")]);
    let mut relay = web.relay(primary.port(), &yaml)?;
    let berlin = named_without("berlin", &primary, &relay, &["drop<b>1"], &[])?;
    berlin.wait_streaming()?;
    fill(&primary, "drop<b>1", "t")?;
    fill(&primary, "keep", "t")?;
    berlin.wait_replayed(&primary)?;

    let browser = Browser::start()?;
    browser.post("url", &json!({"url": format!("http://127.0.0.1:{}/", web.port())}))?;
    shows_what_is_there(&browser)?;
    follows_the_lag(&browser, &primary, &berlin)?;
    works_by_keyboard(&browser)?;
    fits_everywhere(&browser)?;

    // Nothing from elsewhere, and nothing that the browser complains about.
    let origin = format!("http://127.0.0.1:{}/", web.port());
    let elsewhere = format!(
        "return performance.getEntriesByType('resource').filter(it => !it.name.startsWith('{origin}')).length"
    );
    ensure!(browser.eval(&elsewhere)? == 0);
    let log = browser.post("se/log", &json!({"type": "browser"}))?;
    let complaints = log.as_array().context("a log")?.iter().filter(|it| {
        // Browsers ask for it by themselves.
        !it["message"].as_str().unwrap_or_default().contains("favicon.ico")
    });
    ensure!(complaints.count() == 0, "{log}");

    relay.stop()?;
    browser.wait(
        "the page to notice that the relay is gone",
        "return document.getElementById('state').textContent.includes('does not answer')",
    )
}

fn shows_what_is_there(browser: &Browser) -> Result<()> {
    browser.wait(
        "the standby to be shown",
        "return document.querySelector('article[data-client=berlin] h3')?.textContent === 'berlin'",
    )?;
    browser.wait(
        "the standby to be up to date",
        "return document.querySelector('article .big').textContent === 'up to date'",
    )?;
    let text = browser.text()?;
    for part in [
        "reachable",
        "Replayed",
        "% passed",
        "included",
        "excluded",
        "the filter excludes its name",
        "streaming with a filter",
    ] {
        ensure!(text.contains(part), "no {part:?} in\n{text}");
    }
    // Names are text, whatever is in them.
    ensure!(text.contains("drop<b>1"), "{text}");
    ensure!(browser.eval("return document.querySelectorAll('td b').length")? == 0);
    Ok(())
}

/// The chart is alive: a standby that does not replay falls behind before one's eyes.
fn follows_the_lag(browser: &Browser, primary: &Cluster, berlin: &testkit::Standby) -> Result<()> {
    berlin.sql("select pg_wal_replay_pause()")?;
    fill(primary, "keep", "behind")?;
    browser.wait(
        "the standby to fall behind",
        "const lag = document.querySelector('article .big'); \
         return lag.textContent.includes('behind, for') && Number(lag.dataset.lag) > 100000",
    )?;
    let line = "return document.querySelector('article path.line').getAttribute('d')";
    let points = |line: &Value| line.as_str().unwrap_or_default().matches(['M', 'L']).count();
    let before = points(&browser.eval(line)?);
    ensure!(before >= 2, "{before}");
    wait_until("the chart to go on", PATIENCE, || {
        Ok((points(&browser.eval(line)?) > before).then_some(()))
    })?;
    berlin.sql("select pg_wal_replay_resume()")?;
    browser.wait(
        "the standby to catch up",
        "return document.querySelector('article .big').textContent === 'up to date'",
    )
}

/// Everything can be reached by keyboard, and the search keeps the focus while answers come.
fn works_by_keyboard(browser: &Browser) -> Result<()> {
    let active = "return document.activeElement.id || document.activeElement.textContent";
    browser.press(TAB)?;
    ensure!(browser.eval(active)? == "Skip to the standbys");
    for _step in 0..6 {
        browser.press(TAB)?;
        if browser.eval(active)? == "find" {
            break;
        }
    }
    ensure!(browser.eval(active)? == "find", "{}", browser.eval(active)?);
    browser.press("drop")?;
    browser.wait(
        "the rows that were looked for",
        "const rows = [...document.querySelectorAll('#databases tr')]; \
         return rows.length === 1 && rows[0].textContent.includes('drop<b>1')",
    )?;
    // Two more answers come in between.
    std::thread::sleep(std::time::Duration::from_secs(3));
    ensure!(browser.eval(active)? == "find");
    ensure!(browser.eval("return document.querySelectorAll('#databases tr').length")? == 1);
    Ok(())
}

/// On a phone nothing is cut off, and in the dark it is dark, with contrast in both.
fn fits_everywhere(browser: &Browser) -> Result<()> {
    let phone = json!({"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true});
    browser.devtools("Emulation.setDeviceMetricsOverride", &phone)?;
    let width = browser.eval(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]",
    )?;
    ensure!(width[0].as_u64() <= Some(360) && width[1] == 360, "{width}");
    let contrast = "
        const light = (text) => text.match(/[0-9]+/g).slice(0, 3).map((it) => it / 255)
            .map((it) => it <= 0.04 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4)
            .reduce((sum, it, place) => sum + it * [0.2126, 0.7152, 0.0722][place], 0);
        const back = light(getComputedStyle(document.body).backgroundColor);
        const texts = [...document.querySelectorAll('.dim, .good, .warn, .bad, h2, td')];
        const ratios = texts.map((it) => light(getComputedStyle(it).color))
            .map((it) => (Math.max(it, back) + 0.05) / (Math.min(it, back) + 0.05));
        return [back < 0.2, Math.min(...ratios)]";
    for (scheme, is_dark) in [("light", false), ("dark", true)] {
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.devtools("Emulation.setEmulatedMedia", &media)?;
        let seen = browser.eval(contrast)?;
        ensure!(seen[0] == is_dark, "{scheme}: {seen}");
        ensure!(seen[1].as_f64() >= Some(4.5), "{scheme}: contrast {seen}");
    }
    Ok(())
}
